"""The search for how many cameras a server carries."""

from collections.abc import Callable


def search(holds: Callable[[int], bool], most: int) -> tuple[int, int | None]:
    """How many cameras are carried, and the smallest number found that is not.

    Tries 1, 2, 4, ... up to `most` until one does not hold, then halves what is left between. Whoever carries n cameras
    is taken to carry fewer, too.

    Args:
        holds: puts the load of so many cameras on the server; whether it kept what it has to.
        most: the largest number that is tried, 1 or more.

    Returns:
        The first is 0 if not even one camera is carried, the second None if all of them are.
    """
    carried, broken = 0, most + 1
    while carried < most and broken > most:
        count = min(max(carried * 2, 1), most)
        if holds(count):
            carried = count
        else:
            broken = count
    while broken - carried > 1 and broken <= most:
        count = (carried + broken) // 2
        if holds(count):
            carried = count
        else:
            broken = count
    return carried, broken if broken <= most else None
