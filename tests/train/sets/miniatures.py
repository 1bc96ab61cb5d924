"""A few tiny images of every set in its real layout, as users have it on disk, with the traps that each has.

`python -m tests.train.sets.miniatures ROOT` writes them all. The anomaly sets are written by anomaly_miniatures.py.
"""

import json
import pickle
import sys
from pathlib import Path

from PIL import Image

from tests.train.sets.anomaly_miniatures import anomaly_sets, instruct
from tests.train.sets.files import CORNER, HEIGHT, SQUARE, WIDTH, array, bands, box, document, picture, runs, text


def ade20k(root: Path) -> None:
    for stem, labels in (("ADE_train_1", bands(1, 150, rest=0)), ("ADE_train_2", bands(3, rest=3))):
        picture(root / "ade20k/images/training" / f"{stem}.jpg")
        array(root / "ade20k/annotations/training" / f"{stem}.png", labels)


def coco_images(root: Path) -> None:
    for stem in ("000000000009", "000000000025"):
        picture(root / "coco/train2017" / f"{stem}.jpg")


def coco_stuff(root: Path) -> None:
    coco_images(root)
    array(root / "cocostuff/train2017/000000000009.png", bands(0, 95, 181, rest=255))  # 95 is "building-other"


def mapillary(root: Path) -> None:
    names = [{"readable": "Bird"}, {"readable": "Traffic Light"}, {"readable": "Unlabeled"}]
    document(root / "mapillary/config_v2.0.json", {"labels": names})
    picture(root / "mapillary/training/images/abc.jpg")
    labels = Image.fromarray(bands(1, 0, rest=2), "P")
    labels.putpalette([200, 10, 10, 10, 200, 10, 0, 0, 0])
    (root / "mapillary/training/v2.0/labels").mkdir(parents=True)
    labels.save(root / "mapillary/training/v2.0/labels/abc.png")


def coco_json(path: Path, images: list, annotations: list, categories: list) -> Path:
    return document(
        path,
        {
            "info": {"year": 2024},
            "images": [
                {"id": at, "file_name": name, "height": HEIGHT, "width": WIDTH, "license": 1} for at, name in images
            ],
            "annotations": [
                {"id": 100 + number, "image_id": image, "category_id": category, "segmentation": segmentation}
                for number, (image, category, segmentation) in enumerate(annotations)
            ],
            "categories": [{"id": at, "name": name} for at, name in categories],
        },
    )


def paco(root: Path) -> None:
    coco_images(root)
    handles = {"size": [HEIGHT, WIDTH], "counts": runs(box(6, 8, 0, 12))}
    coco_json(
        root / "vlpart/paco/annotations/paco_lvis_v1_train.json",
        [(25, "train2017/000000000025.jpg"), (9, "train2017/000000000009.jpg"), (7, "train2017/none.jpg")],
        [(9, 10, SQUARE), (25, 4, CORNER), (9, 4, SQUARE), (9, 10, handles)],
        [(4, "trash_can"), (10, "cup_(drink):handle")],
    )


def pascal_part(root: Path) -> None:
    folder = root / "vlpart/pascal_part"
    picture(folder / "VOCdevkit/VOC2010/JPEGImages/2008_000008.jpg")
    coco_json(folder / "train.json", [(1, "2008_000008.jpg")], [(1, 3, SQUARE)], [(3, "aeroplane:left_wing")])


def partimagenet(root: Path) -> None:
    name = "n0244_é.JPEG"  # the byte places of what follows differ from its character places
    picture(root / "partimagenet/images/train" / name)
    packed = {"size": [HEIGHT, WIDTH], "counts": "a04400000_1"}
    coco_json(root / "partimagenet/train.json", [(1, name)], [(1, 1, packed)], [(1, "Quadruped:Head")])


def reference(number: int, image: int, annotation: int, *sentences: str, split: str = "train") -> dict:
    return {
        "ref_id": number,
        "ann_id": annotation,
        "category_id": 1,
        "image_id": image,
        "split": split,
        "sentences": [{"sent": sent, "raw": sent.upper(), "sent_id": 1, "tokens": sent.split()} for sent in sentences],
    }


def refer(root: Path, name: str, split: str, segmentations: list, *, twin: bool = False) -> None:
    """Two images with train references, one with another split's only; ann_id 100 and on, in order."""
    folder = root / "refer_seg" / name
    pictures = root / "refer_seg/images" / ("saiapr_tc-12" if name == "refclef" else "mscoco/images/train2014")
    images = [(31, f"{name}_31.jpg"), (30, f"{name}_30.jpg"), (32, f"{name}_32.jpg")]
    for _, file in images:
        picture(pictures / file)
    annotations = [(30 + number, 1, each) for number, each in enumerate(segmentations)]
    coco_json(folder / "instances.json", images, annotations, [(1, "thing")])
    references = [
        reference(2, 31, 101, "the right one"),
        reference(1, 30, 100, "a dog", "the left dog"),
        reference(3, 30, 100, "unseen", split="val"),
        reference(4, 32, 102, "unseen too", split="test"),
    ]
    if twin:
        document(folder / f"refs({split}).json", references)
    else:
        (folder / f"refs({split}).p").write_bytes(pickle.dumps(references, protocol=2))


def referring(root: Path) -> None:
    lengths = {"size": [HEIGHT, WIDTH], "counts": runs(box(0, 2, 0, 3))}
    more = {"size": [HEIGHT, WIDTH], "counts": runs(box(1, 5, 2, 6))}
    refer(root, "refclef", "unc", [[lengths, more], [lengths], [lengths]])
    refer(root, "refcoco", "unc", [SQUARE + CORNER, CORNER, CORNER])
    refer(root, "refcoco+", "unc", [more, lengths, lengths], twin=True)
    refer(root, "refcocog", "umd", [SQUARE, [], CORNER])


def reason_seg(root: Path) -> None:
    folder = root / "reason_seg/ReasonSeg"
    picture(folder / "train/a.jpg")
    shapes = [
        {"label": "target", "points": [[2, 2], [4, 2], [4, 4], [2, 4]]},
        {"label": "flag", "points": [[0, 0], [11, 0], [11, 7], [0, 7]]},
        {"label": "Ignore_it", "points": [[1, 1], [8, 1], [8, 6], [1, 6]]},
    ]
    record = {"text": ["the dog’s toy"], "is_sentence": False, "shapes": shapes}
    text(folder / "train/a.json", json.dumps(record, ensure_ascii=False), "cp1252")
    picture(folder / "train/b.jpg")
    record = {"text": ["What could burn?", "Where is fuel?"], "is_sentence": True, "shapes": shapes[:1]}
    document(folder / "train/b.json", record)
    explained = [{"image": "b.jpg", "query": "What could burn, and why?", "outputs": "The can holds fuel."}]
    document(folder / "explanatory/train.json", explained)


def said(*turns: tuple[str, str]) -> list[dict]:
    return [{"from": role, "value": value} for role, value in turns]


def conversations(root: Path) -> None:
    coco_images(root)
    talk = said(("human", "What is it?\n<image>"), ("gpt", "A dog."), ("human", "Where?"), ("gpt", "Left."))
    led = said(("gpt", "Hello — é."), ("human", "<image>\nHm?"), ("gpt", "Yes."))
    document(
        root / "vqa_dataset/llava_dataset/llava_instruct_150k.json",
        [
            {"id": "1", "image": "000000000009.jpg", "conversations": talk},
            {"id": "2", "image": "000000000025.jpg", "conversations": led},
        ],
    )
    folder = root / "vqa_dataset/anomalyov_dataset"
    picture(folder / "images/webAD/a.png", 8, 12)
    picture(folder / "images/webAD/b.png", 6, 4)
    both = said(("human", "<image> and <image>: which is worse?"), ("gpt", "The second."))
    document(folder / "webad_processed.json", [{"image": ["webAD/a.png", "webAD/b.png"], "conversations": both}])
    picture(root / "vqa_dataset/own/e.png")
    own = said(("human", "<image>\nWorn?"), ("gpt", "No."))
    document(root / "vqa_dataset/own/talk.json", [{"image": "own/e.png", "conversations": own}])
    text(root / "vqa_dataset/own.yaml", "datasets: [{json_path: own/talk.json, sampling_strategy: all}]\n")
    picture(folder / "images/bmad/c.png")
    document(
        folder / "bmad_zero_shot.json",
        [{"image": "bmad/c.png", "conversations": said(("human", "<image>\nNormal?"), ("gpt", "No."))}],
    )
    picture(folder / "images/visa/d.png")
    document(folder / "test_data.json", [{"image": "visa/d.png", "anomaly": yes} for yes in (1, 0)])
    document(folder / "visa_dr.json", [{"image": "visa/d.png", "questions": ["What is wrong?", "Why?"]}])


def write_all(root: Path) -> Path:
    """Every set below the root."""
    for write in (
        ade20k,
        coco_stuff,
        mapillary,
        paco,
        pascal_part,
        partimagenet,
        referring,
        reason_seg,
        anomaly_sets,
        instruct,
        conversations,
    ):
        write(root)
    return root


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
