from pathlib import Path
from xml.etree import ElementTree

from sfumato.show.plots import Curve
from sfumato.show.scaling import Band, Scene, Series, plot_scenes

POINTS = Curve("", [1e4, 5e4, 2e5], [3.0, 2.5, 2.4], [0.1, 0.1, 0.1])
SERIES = (
    Series("masked", POINTS, POINTS, Band(POINTS.x, [2.9, 2.4, 2.3], [3.1, 2.6, 2.5]), best=(6e4, 2.45), shade=0.5),
    Series("never fitted", Curve("", [], []), unseen=Curve("", [3e5], [2.2])),
)
SCENES = [Scene("by size", "parameters", "loss", SERIES, counts=True), Scene("by compute", "FLOPs", "loss", SERIES[:1])]


def words(path: Path) -> str:
    return " ".join("".join(ElementTree.parse(path).getroot().itertext()).split())


def test_a_scene_says_what_it_shows(tmp_path: Path):
    path = tmp_path / "new" / "a.svg"
    plot_scenes(path, "a study", SCENES, share_y=True)
    for part in ("a study", "by size", "by compute", "parameters", "FLOPs", "masked", "never fitted", "20k", "100k"):
        assert part in words(path)


def test_the_same_measurement_is_the_same_picture(tmp_path: Path):
    for name in ("a.svg", "b.svg"):
        plot_scenes(tmp_path / name, "t", SCENES[:1])
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
