"""Small virtual machines: their image, their network, the process that keeps them, the way in."""
