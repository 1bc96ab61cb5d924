"""Draws the demo's own frames: `make demo-frames`. Synthetic images of a stream that no training uses.

A few clear samples of the stream were chosen by eye. The frames in the repository were drawn before defects had to
stand out from their surfaces (1a1f63b); the same numbers show others now, so drawing anew calls for another choice.
"""

from pathlib import Path

from PIL import Image

from agvas_train.data.synth import Sample, generate

SEED = 4711
CHOSEN = (43, 67, 26, 14, 10, 23, 63, 66, 44, 34, 74, 47)
"""Every second one is normal."""
FOLDER = Path(__file__).resolve().parents[1] / "agvas_runtime" / "demo" / "frames"
JPEG_QUALITY = 88


def file_name(number: int, sample: Sample) -> str:
    """What is on the picture, in its name."""
    truth = sample.defects[0].kind if sample.defects else "normal"
    return f"{number:02d}_{sample.surface.kind}_{truth}.jpg".replace(" ", "-")


def main() -> None:
    """Replace the frames by the chosen samples."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    samples = [generate(SEED, index) for index in CHOSEN]
    names = [file_name(number, sample) for number, sample in enumerate(samples)]
    for name, sample in zip(names, samples, strict=True):
        Image.fromarray(sample.image).save(FOLDER / name, quality=JPEG_QUALITY)
    for old in FOLDER.glob("*.jpg"):
        if old.name not in names:
            old.unlink()
    print(f"{len(names)} frames in {FOLDER}")


if __name__ == "__main__":
    main()
