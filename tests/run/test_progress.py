"""Lines of progress where there is no terminal."""

from jaxbrewer.run.progress import ProgressDisplay


def lines(capsys):
    return capsys.readouterr().err.splitlines()


def test_the_last_line_is_not_printed_twice(capsys):
    display = ProgressDisplay(3)
    start = display._at
    for step in (1, 2, 3):
        display.advance(step, 8, start + 11.0 * step, 0.5)
    display.close()
    assert [line.split("  ")[0] for line in lines(capsys)] == ["step 1/3", "step 2/3", "step 3/3"]


def test_the_speed_excludes_compilations(capsys):
    display = ProgressDisplay(100, lead=2)
    at = display._at
    for step in range(1, 51):
        compiled = step in (1, 21)
        at += 20.0 if compiled else 0.25
        display.advance(step, 8, at, 0.5, compiled=compiled)
    shown = lines(capsys)
    assert shown[0] == "step 1/100  loss 0.5000"  # the speed is not known yet
    assert shown[1] == "step 21/100  loss 0.5000  32 examples/s  20 s left"
    display.close()
    assert lines(capsys) == ["step 50/100  loss 0.5000  32 examples/s  12 s left"]
