"""Draws the demo's own frames: `make demo-frames`. Synthetic images of a stream that no training uses.

A few clear samples of the stream were chosen by eye; a change of the generator may call for another choice.
"""

from pathlib import Path

from PIL import Image

from agvas_train.data.synth import generate

SEED = 4711
CHOSEN = (34, 67, 56, 14, 1, 46, 53, 66, 64, 43, 90, 22)
"""Half of them are normal: 67, 14, 46, 66, 43."""
FOLDER = Path(__file__).resolve().parents[1] / "agvas_runtime" / "demo" / "frames"
JPEG_QUALITY = 88


def main() -> None:
    """Write the chosen samples as JPEG files, named by what is on them."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for old in FOLDER.glob("*.jpg"):
        old.unlink()
    for number, index in enumerate(CHOSEN):
        sample = generate(SEED, index)
        truth = sample.defects[0].kind.replace(" ", "-") if sample.defects else "normal"
        path = FOLDER / f"{number:02d}_{sample.surface.kind.replace(' ', '-')}_{truth}.jpg"
        image = Image.fromarray(sample.image)
        image.save(path, quality=JPEG_QUALITY)
        print(f"{path.name}  {image.width}x{image.height}  {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
