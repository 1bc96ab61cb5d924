"""Data sets on disk as users have them, and masks as they come."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from agvas_runtime.datasets import load_dataset, load_mask
from agvas_runtime.errors import InputError


def save(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def grey(value=0, size=(6, 9)):
    return np.full(size, value, np.uint8)


@pytest.fixture
def mvtec(tmp_path):
    root = tmp_path / "set"
    for category in ("bottle", "tile"):
        save(root / category / "test" / "good" / "000.png", grey())
        save(root / category / "test" / "crack" / "001.png", grey())
        save(root / category / "test" / "crack" / "000.png", grey())
        for stem in ("000", "001"):
            save(root / category / "ground_truth" / "crack" / f"{stem}_mask.png", grey(255))
        save(root / category / "train" / "good" / "000.png", grey())
    return root


def record(image, mask="", anomaly=0, kind="good", **more):
    return {"img_path": image, "mask_path": mask, "cls_name": "x", "specie_name": kind, "anomaly": anomaly, **more}


def write_meta(path, test):
    path.write_text(json.dumps({"train": {}, "test": test}))


def test_mvtec_folders(mvtec):
    dataset = load_dataset(str(mvtec))
    assert dataset.name == "set"
    assert list(dataset.categories) == ["bottle", "tile"]
    listed = [(item.image.name, item.kind, item.anomalous) for item in dataset.categories["tile"]]
    assert listed == [("000.png", "crack", True), ("001.png", "crack", True), ("000.png", "good", False)]
    assert dataset.items[0].mask == mvtec / "bottle" / "ground_truth" / "crack" / "000_mask.png"
    assert dataset.items[2].mask is None


def test_hidden_files_and_folders_are_no_images(mvtec):
    names = [item.name for item in load_dataset(mvtec).items]
    save(mvtec / "tile" / "test" / "crack" / "._000.png", grey())
    save(mvtec / "tile" / "test" / ".ipynb_checkpoints" / "000-checkpoint.png", grey())
    save(mvtec / ".cache" / "test" / "good" / "000.png", grey())
    assert [item.name for item in load_dataset(mvtec).items] == names


def test_a_single_category_folder(mvtec):
    dataset = load_dataset(mvtec / "tile")
    assert list(dataset.categories) == ["tile"]
    assert len(dataset.items) == 3


def test_meta_json(mvtec):
    write_meta(
        mvtec / "meta.json",
        {
            "t": [
                record("tile/test/crack/000.png", "tile/ground_truth/crack/000_mask.png", 1, "crack"),
                record("tile/test/good/000.png"),
            ]
        },
    )
    (item, good) = load_dataset(mvtec).categories["t"]
    assert (item.kind, item.anomalous, item.mask.name) == ("crack", True, "000_mask.png")
    assert (good.kind, good.anomalous, good.mask) == ("good", False, None)


def test_one_root_for_all_sets_with_placeholders(mvtec):
    listed = [
        record("set/tile/test/crack/000.png", "set/tile/ground_truth/crack/000_mask.png", 1, "", dataset_name="set"),
        record("", "", 0),
    ]
    meta = mvtec.parent / "meta_set.json"
    write_meta(meta, {"tile": listed, "empty": [record("")]})
    for root in (meta, mvtec, mvtec.parent):
        dataset = load_dataset(root)
        assert list(dataset.categories) == ["tile"]
        assert [item.kind for item in dataset.items] == ["anomaly"]
    write_meta(mvtec.parent / "meta_other.json", {})
    with pytest.raises(InputError, match=r"several data sets \(meta_other.json, meta_set.json\)"):
        load_dataset(mvtec.parent)


def test_a_link_to_a_set_is_read_by_its_own_name_and_place(mvtec, tmp_path):
    link = tmp_path / "links" / "mine"
    link.parent.mkdir()
    link.symlink_to(mvtec)
    assert load_dataset(link).name == "mine"
    write_meta(tmp_path / "meta_set.json", {"target": [record("set/tile/test/good/000.png")]})
    assert load_dataset(link / "..").name == tmp_path.name  # as the system follows it
    assert list(load_dataset(link).categories) == ["target"]
    write_meta(link.with_name("meta_mine.json"), {"link": [record("mine/tile/test/good/000.png")]})
    assert list(load_dataset(link).categories) == ["link"]


def test_a_link_to_a_category_is_a_category_by_its_own_name(mvtec):
    (mvtec / "vase").symlink_to(mvtec / "tile")
    assert list(load_dataset(mvtec).categories) == ["bottle", "tile", "vase"]
    assert list(load_dataset(mvtec / "vase").categories) == ["vase"]


@pytest.fixture
def visa(tmp_path):
    save(tmp_path / "visa" / "a.png", grey())
    save(tmp_path / "visa" / "b.png", grey())
    numbers = grey()
    numbers[1, 2], numbers[3, 4] = 3, 200
    save(tmp_path / "visa" / "b_mask.png", numbers)
    rows = ("object,split,label,image,mask", "pcb1,train,normal,gone.png,", "pcb1,test,normal,a.png,")
    write_visa(tmp_path / "visa", *rows, "pcb1,test,anomaly,b.png,b_mask.png")
    return tmp_path / "visa"


def write_visa(root, *rows):
    (root / "split_csv").mkdir(exist_ok=True)
    (root / "split_csv" / "1cls.csv").write_text("\n".join(rows) + "\n")


def test_visa_s_csv_and_the_numbers_in_its_masks(visa):
    good, bad = load_dataset(visa).categories["pcb1"]
    assert [(item.kind, item.anomalous, item.name) for item in (good, bad)] == [
        ("good", False, "a.png"),
        ("anomaly", True, "b.png"),
    ]
    assert not load_mask(good, (6, 9)).any()
    assert np.argwhere(load_mask(bad, (6, 9))).tolist() == [[1, 2], [3, 4]]
    colours = Image.open(bad.mask).convert("RGB")
    indexes = Image.fromarray(np.asarray(colours)[:, :, 0], "P")
    indexes.putpalette([0, 0, 0] * 256)
    for image in (colours, indexes):
        image.save(bad.mask)
        assert load_mask(bad, (6, 9)).sum() == 2


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("pcb1,test,anomaly,../b.png,", "leaves the data set's folder"),
        ("pcb1,test,anomaly", "1cls.csv: not a data set's list"),
        ("pcb1,test,anomaly,a.png,gone.png", "gone.png: the data set lists this mask"),
        ('pcb1,test,"' + "x" * 200_000, "1cls.csv: not a data set's list"),
    ],
)
def test_rows_of_visa_that_cannot_be_used_say_why(visa, row, reason):
    write_visa(visa, "object,split,label,image,mask", row)
    with pytest.raises(InputError, match=reason):
        load_dataset(visa)


@pytest.mark.parametrize(
    ("listed", "reason"),
    [
        (record("gone.png"), r"gone.png: the data set lists this image"),
        (record("tile/test/good/000.png", "gone.png", 1), r"gone.png: the data set lists this mask"),
        (record("../outside.png"), "leaves the data set's folder"),
        (record("/etc/hostname"), "leaves the data set's folder"),
        ({"img_path": "tile/test/good/000.png"}, r"meta.json: not a data set's list \(no field 'anomaly'\)"),
        ("text", r"meta.json: not a data set's list"),
    ],
)
def test_records_that_cannot_be_used_say_why(mvtec, listed, reason):
    write_meta(mvtec / "meta.json", {"tile": [listed]})
    with pytest.raises(InputError, match=reason):
        load_dataset(mvtec)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"train": {}}', '{"test": 7}', "[" * 100_000])
def test_a_meta_json_that_is_none_says_so(mvtec, text):
    (mvtec / "meta.json").write_text(text)
    with pytest.raises(InputError, match=r"meta.json: "):
        load_dataset(mvtec)


def test_an_mvtec_image_without_its_mask_is_named(mvtec):
    (mvtec / "tile" / "ground_truth" / "crack" / "001_mask.png").unlink()
    with pytest.raises(InputError, match=r"001_mask.png: the data set lists this mask"):
        load_dataset(mvtec)


def test_folders_without_a_data_set_say_so(tmp_path):
    with pytest.raises(InputError, match="no data set here"):
        load_dataset(tmp_path)
    with pytest.raises(InputError, match="no such data set"):
        load_dataset(tmp_path / "nowhere")


@pytest.fixture
def item(mvtec):
    return load_dataset(mvtec).categories["tile"][0]


def as_mask(item, image):
    image.save(item.mask)
    return load_mask(item, (6, 9))


def half_range(dtype):
    top = np.iinfo(dtype).max
    values = np.zeros((6, 9), dtype)
    values[0, :4] = top // 2 + 1, top, top // 2, 1
    return values


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_defect_begins_at_half_of_the_formats_range(item, dtype):
    mask = as_mask(item, Image.fromarray(half_range(dtype)))
    assert mask.dtype == bool
    assert mask.nonzero()[1].tolist() == [0, 1]


@pytest.mark.parametrize("mode", ["1", "RGB", "RGBA", "LA", "P"])
def test_masks_in_any_mode(item, mode):
    truth = np.zeros((6, 9), bool)
    truth[2:4, 3:7] = True
    image = Image.fromarray(truth.astype(np.uint8) * 255).convert(mode)
    np.testing.assert_array_equal(as_mask(item, image), truth)


def test_a_normal_image_has_an_empty_mask_of_its_own_shape(mvtec):
    good = load_dataset(mvtec).categories["tile"][2]
    mask = load_mask(good, (6, 9))
    assert mask.shape == (6, 9)
    assert not mask.any()


def test_a_mask_of_another_size_names_both(item):
    with pytest.raises(InputError, match=r"000_mask.png: the mask is 6 x 9, its image .*000.png 9 x 6"):
        as_mask(item, Image.fromarray(grey(255, (9, 6))))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_of_zeros_and_ones_means_what_it_says(item, dtype):
    truth = np.zeros((6, 9), dtype)
    truth[2, 3:5] = 1
    np.testing.assert_array_equal(as_mask(item, Image.fromarray(truth)), truth == 1)


def test_a_mask_of_other_small_values_is_refused_instead_of_read_as_empty(item):
    with pytest.raises(InputError, match="largest value is 2, but defect begins at 128"):
        as_mask(item, Image.fromarray(grey(2)))


@pytest.mark.parametrize("mask", ["", "tile/ground_truth"])
def test_a_list_without_masks_has_no_pixel_labels(mvtec, mask):
    write_meta(mvtec / "meta.json", {"tile": [record("tile/test/crack/000.png", mask, 1, "crack")]})
    (item,) = load_dataset(mvtec).items
    assert (item.anomalous, item.mask, item.has_truth) == (True, None, False)


def test_folders_without_ground_truth_have_no_pixel_labels(mvtec):
    shutil.rmtree(mvtec / "tile" / "ground_truth")
    listed = load_dataset(mvtec).categories
    assert [item.has_truth for item in listed["tile"]] == [False, False, True]
    assert all(item.has_truth for item in listed["bottle"])


def test_one_lost_mask_among_others_is_named(mvtec):
    kept = record("tile/test/crack/000.png", "tile/ground_truth/crack/000_mask.png", 1)
    write_meta(mvtec / "meta.json", {"tile": [kept, record("tile/test/crack/001.png", "", 1)]})
    with pytest.raises(InputError, match=r"crack/001.png: no pixel labels, but others of category 'tile' have masks"):
        load_dataset(mvtec)


def test_of_a_folder_of_images_nothing_is_known(tmp_path):
    save(tmp_path / "line" / "b.png", grey())
    save(tmp_path / "line" / "a.bmp", grey())
    dataset = load_dataset(tmp_path / "line")
    assert [(item.name, item.anomalous, item.has_truth) for item in dataset.categories["line"]] == [
        ("a.bmp", None, False),
        ("b.png", None, False),
    ]


def test_images_are_named_by_their_path_in_the_data_set(mvtec):
    assert load_dataset(mvtec).items[0].name == "bottle/test/crack/000.png"
    assert load_dataset(mvtec / "tile").items[0].name == "test/crack/000.png"
    write_meta(mvtec / "meta.json", {"t": [record("tile/test/good/000.png")]})
    assert load_dataset(mvtec).items[0].name == "tile/test/good/000.png"
