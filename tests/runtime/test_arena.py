"""The memory that frames lie in: no two in one place, none beyond the limit, given back to the system when free."""

import mmap
import os
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Event

import numpy as np
import pytest

from agvas_runtime.errors import EngineError, InputError
from agvas_runtime.server.engine import arena as arena_module
from agvas_runtime.server.engine.arena import Arena, ArenaFull, Token

PAGE = mmap.PAGESIZE
MIB = 2**20


@pytest.fixture
def arena():
    made = Arena(8 * MIB)
    yield made
    made.close()


def frame(height, width, value=0):
    return np.full((height, width, 3), value, np.uint8)


def resident_bytes(arena):
    """What the system has given for it."""
    return os.fstat(arena.fd).st_blocks * 512


def test_a_block_holds_the_frame_and_has_room_for_mask_and_map(arena, rng):
    image = rng.integers(0, 256, (37, 53, 3), np.uint8)
    block = arena.place(image)
    assert (block.height, block.width) == (37, 53)
    assert (block.mask.dtype, block.mask.shape) == (np.bool_, (37, 53))
    assert (block.probability.dtype, block.probability.shape) == (np.float32, (37, 53))
    block.mask[:], block.probability[:] = True, 0.25
    assert np.array_equal(block.image, image)
    assert block.mask.all()
    assert (block.probability == 0.25).all()


def test_a_frame_that_is_a_view_of_another_is_copied_as_it_looks(arena, rng):
    image = rng.integers(0, 256, (40, 60, 3), np.uint8)
    assert np.array_equal(arena.place(image[::-2, 3:50:3]).image, image[::-2, 3:50:3])


def test_a_grey_frame_takes_six_bytes_a_pixel_and_is_rgb_to_whoever_looks(arena, rng):
    grey = rng.integers(0, 256, (640, 64), np.uint8)
    block = arena.place(grey)
    assert arena.size - arena.free_bytes == 640 * 64 * 6
    block.mask[:], block.probability[:] = True, 0.25
    assert np.array_equal(block.image, grey[:, :, None].repeat(3, axis=2))
    assert not block.image.flags.writeable
    seen = arena.at(block.token)
    assert np.array_equal(seen.stored, grey)
    assert seen.mask.all()
    assert (seen.probability == 0.25).all()
    block.release()
    assert arena.free_bytes == arena.size


NO_FRAMES = ((4,), (4, 4, 1), (4, 4, 4), (0, 4, 3), (0, 4), (1, 4, 4, 3))


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4)), *(np.zeros(s, np.uint8) for s in NO_FRAMES)])
def test_an_array_that_is_no_rgb_frame_is_refused(arena, image):
    with pytest.raises(InputError, match="expected uint8 RGB"):
        arena.place(image)
    assert arena.free_bytes == arena.size


def test_blocks_keep_what_is_in_them_whatever_is_placed_and_freed_around_them(arena, rng):
    kept = []
    for number in range(600):
        if kept and (number % 3 == 2 or arena.free_bytes < 4 * MIB):
            block, value = kept.pop(int(rng.integers(len(kept))))
            assert (block.image == value).all()
            assert (block.mask == value % 2).all()
            assert (block.probability == value).all()
            block.release()
            continue
        value = number % 256
        block = arena.place(frame(*rng.integers(1, 200, 2), value), wait_s=0)
        block.mask[:], block.probability[:] = value % 2, value
        kept.append((block, value))
    places = sorted((block.token.offset, block.token.offset + block.token.nbytes) for block, _ in kept)
    assert all(end <= start for (_, end), (start, _) in pairwise(places))
    for block, _ in kept:
        block.release()
    assert arena.free_bytes == arena.size


def test_what_was_freed_in_pieces_is_one_piece_again(arena):
    blocks = [arena.place(frame(1, PAGE // 8)) for _ in range(arena.size // PAGE)]
    for block in (*blocks[::2], *blocks[1::2]):
        block.release()
    assert arena.place(frame(1, arena.size // 8)).token.offset == 0


def test_frames_go_to_the_lowest_place_that_is_free(arena):
    low, high, _ = (arena.place(frame(100, 100)) for _ in range(3))
    high.release()
    low.release()
    assert arena.place(frame(100, 100)).token.offset == 0


def test_a_block_is_free_when_its_last_user_has_released_it(arena):
    block = arena.place(frame(100, 100, 7))
    block.retain()
    block.release()
    assert (block.image == 7).all()
    block.release()
    assert arena.free_bytes == arena.size


def test_a_free_block_cannot_be_used_any_more(arena):
    block = arena.place(frame(100, 100))
    block.release()
    for use in (block.release, block.retain, lambda: block.image, lambda: block.mask, lambda: block.probability):
        with pytest.raises(RuntimeError, match="free already"):
            use()
    assert arena.free_bytes == arena.size


def test_a_full_arena_says_what_was_asked_and_what_is_free(arena):
    first, _, third = (arena.place(frame(256, 1024)) for _ in range(3))  # 2 MiB each
    first.release()
    third.release()
    with pytest.raises(ArenaFull) as caught:
        arena.place(frame(768, 1024))
    assert str(caught.value) == (
        "no room for a frame of 1024 x 768 pixels, 6.0 MiB: 6.0 MiB of 8.0 MiB are free, 4.0 MiB in one piece"
    )


def test_a_frame_waits_for_room(arena):
    block = arena.place(frame(1024, 1024))
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(arena.place, frame(512, 512, 3), wait_s=30)
        block.release()
        assert (waiting.result().image == 3).all()


def test_a_frame_does_not_wait_for_ever(arena):
    arena.place(frame(1024, 1024))
    with pytest.raises(ArenaFull, match=r"0\.0 MiB of 8\.0 MiB are free"):
        arena.place(frame(1, 1), wait_s=0.01)


def test_a_frame_larger_than_the_limit_is_refused_by_its_name_however_empty_it_is(arena):
    with pytest.raises(InputError) as caught:
        arena.place(frame(1025, 1024), wait_s=30)
    assert str(caught.value) == (
        "frame: found 1024 x 1025 pixels, which take 8.0 MiB with mask and map, "
        "expected at most the 8.0 MiB of all frames together"
    )


def test_threads_wait_for_each_other_and_never_get_the_same_place(arena):
    """There is room for two of four."""
    go = Event()

    def place_and_look(value):
        go.wait()
        for number in range(50):
            block = arena.place(frame(512, 1024 - number, value), wait_s=30)
            whole = (block.image == value).all()
            block.release()
            if not whole:
                return False
        return True

    with ThreadPoolExecutor(4) as pool:
        looks = [pool.submit(place_and_look, value) for value in range(4)]
        go.set()
        assert all(look.result() for look in looks)


def test_memory_is_taken_from_the_system_where_it_is_used_and_no_sooner():
    arena = Arena(2**40)
    assert resident_bytes(arena) == 0
    arena.place(frame(1024, 1024))
    assert 0 < resident_bytes(arena) <= 8 * MIB
    arena.close()


def test_what_is_freed_behind_the_start_goes_back_to_the_system_at_once(arena, monkeypatch):
    monkeypatch.setattr(arena_module, "KEPT_BYTES", 2 * MIB)
    blocks = [arena.place(frame(256, 768)) for _ in range(4)]  # 1.5 MiB each
    for block in blocks:
        block.mask[:], block.probability[:] = True, 1
    assert resident_bytes(arena) == 6 * MIB
    blocks[3].release()
    assert resident_bytes(arena) == 4.5 * MIB
    blocks[1].release()  # half of it lies in what is kept
    assert resident_bytes(arena) == 3.5 * MIB
    assert (blocks[2].probability == 1).all()


def test_trimming_gives_all_free_memory_back_and_nothing_else(arena, rng):
    image = rng.integers(0, 256, (256, 1024, 3), np.uint8)
    blocks = [arena.place(image) for _ in range(4)]
    for block in blocks:
        block.mask[:], block.probability[:] = True, 1
    for block in (blocks[0], blocks[2]):
        block.release()
    assert resident_bytes(arena) == 8 * MIB
    arena.trim()
    assert resident_bytes(arena) == 4 * MIB
    assert np.array_equal(blocks[1].image, image)
    assert np.array_equal(blocks[3].image, image)
    assert blocks[3].mask.all()


def test_another_process_finds_a_block_by_its_token_and_writes_where_this_one_reads(arena, rng):
    block = arena.place(rng.integers(0, 256, (48, 64, 3), np.uint8))
    script = (
        "import sys; from agvas_runtime.server.engine.arena import Arena, Token\n"
        "fd, size, *token = map(int, sys.argv[1:])\n"
        "block = Arena.attach(fd, size).at(Token(*token))\n"
        "block.mask[:] = block.image[:, :, 0] > 99\n"
        "block.probability[:] = block.image[:, :, 1] / 255"
    )
    command = [sys.executable, "-c", script, *map(str, (arena.fd, arena.size, *block.token))]
    subprocess.run(command, pass_fds=(arena.fd,), check=True)
    assert np.array_equal(block.mask, block.image[:, :, 0] > 99)
    assert np.array_equal(block.probability, (block.image[:, :, 1] / 255).astype(np.float32))


@pytest.mark.parametrize(
    "token",
    [
        Token(8 * MIB, 1, 1),
        Token(8 * MIB - PAGE, 1, PAGE // 8 + 1),
        Token(0, 2**40, 2**40),
        Token(-PAGE, 1, 1),
        Token(1, 1, 1),
        Token(0, 0, 5),
        Token(0, -5, -5),
        Token(0, 1.5, 1),
        Token(0, 1, 1, 2),
        Token(8 * MIB - PAGE, 1, PAGE // 6 + 1, 1),
        (0, 1),
    ],
)
def test_a_token_that_does_not_lie_in_the_arena_finds_nothing(arena, token):
    attached = Arena.attach(os.dup(arena.fd), arena.size)
    with pytest.raises(ValueError, match=r"expected a block|ends behind the arena's"):
        attached.at(token)
    attached.close()


def test_who_is_given_the_file_cannot_change_its_size(arena):
    for size in (0, 2 * arena.size):
        with pytest.raises(PermissionError):
            os.truncate(arena.fd, size)


def test_the_memory_has_no_name_anywhere():
    arena = Arena(8 * MIB)
    arena.place(frame(100, 100))
    assert os.readlink(f"/proc/self/fd/{arena.fd}") == "/memfd:agvas-frames (deleted)"
    arena.close()


def test_memory_that_the_system_does_not_give_is_named_with_its_setting():
    limits, before = resource.getrlimit(resource.RLIMIT_FSIZE), len(os.listdir("/proc/self/fd"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, limits[1]))
    try:
        with pytest.raises(EngineError) as caught:
            Arena(4 << 20)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(caught.value) == "shared memory of 4.0 MiB (max_memory_mb): file too large"
    assert len(os.listdir("/proc/self/fd")) == before


def test_views_stay_readable_when_the_arena_is_closed():
    arena = Arena(8 * MIB)
    view = arena.place(frame(100, 100, 9)).image
    arena.close()
    assert (view == 9).all()
