"""How much tests send where any amount would do: an emulated machine gets less, of the same kinds."""

import os

VOLUME = int(os.environ.get("NETLAB_TEST_VOLUME", "1048576"))  # bytes
