"""What the embedded benchmarks hand out: stable, told apart by id and split, whole clips."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
from fixtures_embedded import SEVERAL, chosen, dials, digest, drafts, made

from experiments.config import build, compose_config
from focus.benchmarks.embedded import (
    KINDS,
    Counting,
    IndexedQuestion,
    LeakageProbe,
    MinimalPair,
    OddOneOut,
    SameOrDifferent,
    SingleImage,
    TwoViews,
    WhichImage,
)
from focus.benchmarks.embedded.base import MIXED
from focus.benchmarks.registry import BENCHMARKS, EMBEDDED, parsers_of
from focus.branches import target_units
from focus.errors import InvalidValueError, UnknownNameError
from focus.worlds import SPLITS, WORLDS, world_of
from focus.worlds.questions import NUMBERS, ORDINALS


@pytest.mark.parametrize("name", EMBEDDED)
def test_examples_show_what_their_drafts_say(name):
    benchmark = made(name, 12)
    world = world_of(benchmark.world)
    for index, example in enumerate(benchmark):
        draft = benchmark.draft(index)
        number = len(draft.views)
        shown = " ".join(["<image>"] * world.frames)
        announced = [f"{ordinal} {world.noun} : {shown}" for ordinal in ORDINALS[:number]]
        assert example.question == " ".join([*announced, draft.body])
        assert example.truths == draft.views  # one per view, not per frame
        assert len(example.images) == number * world.frames
        for k, truth in enumerate(draft.views):
            key = draft.keys[k] if draft.keys else f"{example.id}-{k}"
            view = world.view(truth, seed=0, split="test", index=key)
            frames = example.images[k * world.frames : (k + 1) * world.frames]
            assert [digest(x) for x in frames] == [digest(x) for x in view]
        facts = dict(example.metadata)
        assert facts["world"] == benchmark.world == benchmark.name.split("_")[0]
        assert (facts["num_images"], facts["frames"]) == (number, world.frames)
        assert (facts["attribute"], facts["similarity"]) == (draft.attribute, draft.similarity)
        assert facts.keys() - draft.extra.keys() == {
            *("world", "domain", "num_images", "frames", "attribute", "similarity")
        }
        assert example.group
        assert example.cluster


@pytest.mark.parametrize("name", EMBEDDED)
def test_targets_are_images_or_whole_clips(name):
    benchmark = made(name, 12)
    frames = world_of(benchmark.world).frames
    for index, example in enumerate(benchmark):
        draft = benchmark.draft(index)
        number = len(draft.views)
        needs_one = EMBEDDED[name] in (SingleImage, IndexedQuestion, LeakageProbe, TwoViews)
        assert bool(draft.about) == (needs_one or draft.category == "text")
        wanted = draft.about or tuple(range(number))
        if frames == 1:
            assert example.targets == draft.about
        else:
            clips = [tuple(range(k * frames, k * frames + frames)) for k in wanted]
            assert example.targets == tuple(clips)
        # as the decoder sees it: a unit for each view that is needed
        units = target_units(len(example.images), example.targets or None)
        assert [unit[0] // frames for unit in units] == list(wanted)
        assert {len(unit) for unit in units} == {frames}


def test_domains_of_photographs():
    world = world_of("photos")
    for draft_index, example in enumerate(IndexedQuestion(world="photos", size=40)):
        (target,) = example.targets
        assert example.metadata["domain"] == world.domain(example.truths[target]), draft_index
    found = set()
    for example in Counting(world="photos", size=40, num_images=2, similarity=0):
        shown = {world.domain(truth) for truth in example.truths}
        assert example.metadata["domain"] == (shown.pop() if len(shown) == 1 else MIXED)
        found.add(example.metadata["domain"])
    assert MIXED in found
    assert len(found) > 1
    assert all(e.category == e.metadata["domain"] or e.metadata["domain"] == MIXED
               for e in WhichImage(world="photos", size=20))  # fmt: skip


@pytest.mark.parametrize("name", EMBEDDED)
def test_no_image_occurs_in_two_splits(name):
    """Test images that a model was trained on would measure memory, not sight."""
    seen = {
        split: {digest(image) for example in made(name, 8, split=split) for image in example.images}
        for split in SPLITS
    }
    assert all(len(hashes) >= 8 for hashes in seen.values())
    for a, b in itertools.combinations(SPLITS, 2):
        assert not seen[a] & seen[b], (a, b)


@pytest.mark.parametrize("name", EMBEDDED)
def test_examples_depend_on_their_index_and_on_nothing_else(name):
    """Neither on the number of examples nor on the order of reading."""
    forwards = list(made(name, 6))
    larger = made(name, 100_000)
    for index, a in reversed(list(enumerate(forwards))):
        b = larger[index]
        assert (a.id, a.question, a.truths, a.reference) == (
            b.id,
            b.question,
            b.truths,
            b.reference,
        )
        assert [digest(x) for x in a.images] == [digest(x) for x in b.images]
    assert larger.draft(-1) == larger.draft(len(larger) - 1)
    for index in (len(larger), -len(larger) - 1):
        with pytest.raises(IndexError):
            larger[index]
    other = [e.truths for e in made(name, 6, seed=1)]
    assert other != [e.truths for e in forwards]


def test_an_id_names_one_question():
    """Records of all worlds, kinds and settings may lie in one file."""
    benchmarks = [
        made(name, 5, split=split, seed=seed)
        for name in EMBEDDED
        for split in SPLITS
        for seed in (0, 1)
    ]
    benchmarks += [
        kind(size=5, **setting)
        for kind in SEVERAL
        for setting in dials(kind, "scenes", images=(3, 5))
        if setting["similarity"] != 1
    ]
    benchmarks += [IndexedQuestion(size=5, position=k) for k in (0, 1)]
    benchmarks += [IndexedQuestion(size=5, similarity=None), TwoViews(size=2, similarity=0)]
    ids = [draft.id for benchmark in benchmarks for draft in drafts(benchmark)]
    assert len(set(ids)) == len(ids)
    assert SingleImage().draft(7).id == "scenes_single-test-seed0-00007"
    assert (
        IndexedQuestion(world="clips", num_images=3, position=1, split="dev").draft(7).id
        == "clips_indexed-dev-seed0-n3-similarity1-position1-00007"
    )
    assert MinimalPair().draft(7).id == "scenes_matching-test-seed0-00003-image-1"


def test_ten_thousand_questions_without_a_pixel():
    asked = drafts(Counting(size=10_000))
    assert len({draft.id for draft in asked}) == 10_000
    counts = Counter(draft.answer for draft in asked)
    assert set(counts) == set(NUMBERS[:5])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert len({(draft.body, str(draft.views)) for draft in asked}) > 9_900


def test_every_world_has_every_kind_by_name():
    assert set(EMBEDDED) == {f"{world}_{kind}" for world in WORLDS for kind in KINDS}
    assert len(KINDS) == 9
    assert EMBEDDED.items() <= BENCHMARKS.items()
    for name in EMBEDDED:
        assert made(name, 1).name == name
        assert set(parsers_of(name)) == {"words"}
    with pytest.raises(UnknownNameError, match=r"scenes_index.*scenes_indexed"):
        parsers_of("scenes_index")


@pytest.mark.parametrize("name", EMBEDDED)
def test_configurations_say_which_benchmark_they_are(name):
    benchmark = build(compose_config("config", chosen(name)).benchmark)
    assert type(benchmark) is EMBEDDED[name]
    assert benchmark.name == name
    assert len(benchmark) == 600
    assert benchmark == EMBEDDED[name](world=benchmark.world)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: SingleImage(split="validation"), "split"),
        (lambda: SingleImage(size=0), "size"),
        (lambda: SingleImage(size=10**5 + 1), "size"),
        (lambda: SingleImage(size=True), "size"),
        (lambda: SingleImage(seed=-1), "seed"),
        (lambda: IndexedQuestion(num_images=1), "num_images"),
        (lambda: IndexedQuestion(num_images=9), "num_images"),
        (lambda: IndexedQuestion(num_images=2.0), "num_images"),
        (lambda: IndexedQuestion(similarity=4), "similarity"),
        (lambda: IndexedQuestion(similarity=-1), "similarity"),
        (lambda: IndexedQuestion(world="digits", similarity=2), "similarity"),
        (lambda: IndexedQuestion(position=2), "position"),
        (lambda: IndexedQuestion(position=-1), "position"),
        (lambda: WhichImage(similarity=4), "similarity"),
        (lambda: OddOneOut(num_images=2), "num_images"),
        (lambda: SameOrDifferent(similarity=4), "similarity"),
        (lambda: Counting(num_images=0), "num_images"),
        (lambda: WhichImage(similarity=None), "similarity"),
        (lambda: LeakageProbe(similarity=3), "similarity"),
        (lambda: LeakageProbe(world="photos", similarity=1), "similarity"),
        (lambda: LeakageProbe(order=3), "order"),
        (lambda: LeakageProbe().reordered(3), "order"),
        (lambda: TwoViews(similarity=4), "similarity"),
        (lambda: TwoViews().reordered(3), "order"),
        (lambda: MinimalPair(direction="audio"), "direction"),
        (lambda: MinimalPair(order=2), "order"),
    ],
)
def test_bad_values_are_named(make, name):
    with pytest.raises(InvalidValueError) as error:
        make()
    assert error.value.name == name


def test_unknown_worlds_are_named():
    with pytest.raises(UnknownNameError, match=r"scene.*scenes"):
        SingleImage(world="scene")
