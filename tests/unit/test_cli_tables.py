"""Tables on a terminal: columns draw nearer, and then the last one is folded."""

from netlab.cli.tables import table

HEADS = ("NAME", "STATUS", "NODE")
ROWS = [("web-6d4b75cb6d-abcde", "Running", "n1"), ("db-0", "ContainerCreating", "n2")]


def test_wide_enough() -> None:
    lines = table(HEADS, ROWS, 80)
    assert lines == table(HEADS, ROWS, None)
    assert lines[1] == "web-6d4b75cb6d-abcde   Running             n1"


def test_columns_draw_nearer_where_that_is_enough() -> None:
    widest = max(map(len, table(HEADS, ROWS, None)))
    lines = table(HEADS, ROWS, widest - 2)
    assert lines[1] == "web-6d4b75cb6d-abcde  Running            n1"
    assert max(map(len, lines)) == widest - 2


def test_else_the_last_column_is_folded() -> None:
    lines = table(("NAME", "WHY"), [("web", "it has no address that anybody could reach")], 36)
    assert lines[1:] == ["web    it has no address that", "       anybody could reach"]
