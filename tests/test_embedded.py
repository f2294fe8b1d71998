"""The embedded benchmarks: exact truth, no favoured answer, and wrong answers that can be traced.

Answers are recomputed from the words of the question and the truths of the views alone.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from fixtures_embedded import GROUPS, SEVERAL, dials, difference, digest, drafts, made

from focus.benchmarks.embedded import (
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
from focus.benchmarks.embedded.single import SKILLS
from focus.benchmarks.registry import EMBEDDED
from focus.worlds import WORLDS, AbstractWorld, Truth, world_of
from focus.worlds.questions import LETTERS, NUMBERS, ORDINALS


def oracle(body: str, views: tuple[Truth, ...], world: AbstractWorld) -> str:
    """The answer to a question, from its words."""
    noun = world.noun
    target = views[0]
    if found := re.match(rf"in the (\w+) {noun} , (.*)", body):
        target, body = views[ORDINALS.index(found[1])], found[2]
    if found := re.fullmatch(rf"in how many {noun} is the (\w+) (\w+) \?", body):
        return NUMBERS[sum(view[found[1]] == found[2] for view in views)]
    if found := re.fullmatch(rf"is the (\w+) the same in all {noun} \?", body):
        return "yes" if len({view[found[1]] for view in views}) == 1 else "no"
    if found := re.fullmatch(rf"in which {noun} is the (\w+) different \? .*", body):
        times = Counter(view[found[1]] for view in views)
        (odd,) = (i for i, view in enumerate(views) if times[view[found[1]]] == 1)
        assert sorted(times.values()) == [1, len(views) - 1]
        return ORDINALS[odd]
    if found := re.fullmatch(rf"which {noun} shows (.*) \? first .* \?", body):
        (fits,) = (i for i, view in enumerate(views) if world.caption(view) == found[1])
        return ORDINALS[fits]
    if found := re.fullmatch(r"which caption is right \? (A .*)", body):
        return right_letter(found[1], " ".join(target.values()))
    if found := re.fullmatch(r"is the (\w+) (\w+) \?", body):
        return "yes" if target[found[1]] == found[2] else "no"
    if found := re.fullmatch(r"what is the (\w+) \?", body):
        return target[found[1]]
    found = re.fullmatch(r"what is the (\w+) \? (A .*)", body)
    assert found, body
    return right_letter(found[2], target[found[1]])


def options(listed: str) -> dict[str, str]:
    """Text of each letter."""
    parts = re.split(r" ?\b([A-F]) ", listed)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def right_letter(listed: str, wanted: str) -> str:
    (letter,) = (letter for letter, text in options(listed).items() if text == wanted)
    return letter


@pytest.mark.parametrize("name", EMBEDDED)
def test_answers_are_what_the_words_and_the_truths_say(name):
    kind, world = EMBEDDED[name], world_of(name.split("_")[0])
    settings = dials(kind, world.name) if kind in SEVERAL else [{}]
    for setting, order in itertools.product(settings, range(kind.orders)):
        answers = set()
        for draft in drafts(made(name, 48, **setting).reordered(order)):
            assert draft.answer == oracle(draft.body, draft.views, world), draft
            assert draft.answer in draft.choices
            assert len(set(draft.choices)) == len(draft.choices)
            assert set(draft.distractors) <= {*draft.choices} - {draft.answer}
            assert all(dict(view) in world.truths for view in draft.views)
            answers.add(draft.answer)
        assert len(answers) > 1  # control: no answer is constant


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("kind", SEVERAL, ids=lambda kind: kind.kind)
def test_similarity_is_exact(kind, world):
    names = set(world_of(world).attributes)
    for setting in dials(kind, world):
        for draft in drafts(kind(world=world, size=40, **setting)):
            assert len(draft.views) == setting["num_images"]
            assert draft.similarity == setting["similarity"]
            if kind in GROUPS:  # attributes in which all views agree, the asked one aside
                asked = {draft.attribute}
                shared = {n for n in names - asked if len({v[n] for v in draft.views}) == 1}
                assert len(shared) == setting["similarity"]
                continue
            target = ORDINALS.index(draft.answer) if kind is WhichImage else draft.about[0]
            for i, view in enumerate(draft.views):
                changed = difference(view, draft.views[target])
                assert len(changed) == (0 if i == target else len(names) - setting["similarity"])
                if kind is WhichImage and i != target:
                    assert set(draft.extra["changed"]) == changed != set()


@pytest.mark.parametrize("world", WORLDS)
def test_no_view_of_a_group_is_special_but_in_what_is_asked(world):
    """If the odd view were odd in every attribute, the question would not have to be read."""
    odd_elsewhere = Counter()
    for draft in drafts(OddOneOut(world=world, size=600, num_images=3, similarity=0)):
        for name in set(world_of(world).attributes) - {draft.attribute}:
            times = Counter(view[name] for view in draft.views)
            odd = [i for i, view in enumerate(draft.views) if times[view[name]] == 1]
            if len(odd) == 1:
                odd_elsewhere[odd[0] == ORDINALS.index(draft.answer)] += 1
    assert odd_elsewhere[True] / odd_elsewhere.total() == pytest.approx(1 / 3, abs=0.1)


#: What is dealt in turn, and so must come out equal and not only about equal, and how many there
#: are of it. Views, where they are a setting: four.
BALANCED = [
    (IndexedQuestion, lambda d: d.about, 4),
    (WhichImage, lambda d: d.answer, 4),
    (OddOneOut, lambda d: d.answer, 4),
    (SameOrDifferent, lambda d: d.answer, 2),
    (Counting, lambda d: d.answer, 5),
    (LeakageProbe, lambda d: (d.about, d.answer), 12),
    (LeakageProbe, lambda d: (d.answer, d.distractors), 6),
    (MinimalPair, lambda d: (d.category, d.answer), 4),
]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize(("kind", "content", "number"), BALANCED)
def test_no_answer_and_no_place_is_favoured(kind, content, number, world):
    """Neither as a whole nor for one attribute."""
    attributes = len(world_of(world).attributes)
    size = 4 * 5 * 6 * attributes  # views, counts, arrangements of the options
    settings = {"num_images": 4} if kind in SEVERAL else {"direction": "both"}
    asked = drafts(kind(world=world, size=size, **settings))
    counts = Counter((draft.attribute, content(draft)) for draft in asked)
    assert len(set(counts.values())) == 1
    assert len(counts) == number * (1 if kind is WhichImage else attributes)


@pytest.mark.parametrize("world", WORLDS)
def test_values_letters_and_differing_views_are_drawn_evenly(world):
    """What is drawn and not dealt in turn: within 5 standard deviations of even."""
    attributes = world_of(world).attributes
    indexed = drafts(IndexedQuestion(world=world, size=1200))
    single = drafts(SingleImage(world=world, size=1600))
    same = drafts(SameOrDifferent(world=world, size=480, num_images=3))
    odd = [
        next(i for i, v in enumerate(d.views) if times[v[d.attribute]] == 1)
        for d in same
        if d.answer == "no"
        for times in [Counter(view[d.attribute] for view in d.views)]
    ]
    drawn = [(Counter(odd), range(3))]
    for name, values in attributes.items():
        letters = [d.answer for d in single if d.category == "letter" and d.attribute == name]
        told = [d.answer for d in single if d.category != "letter" and d.attribute == name]
        drawn += [
            (Counter(d.answer for d in indexed if d.attribute == name), values),
            (Counter(letters), LETTERS[: min(4, len(values))]),
            (Counter(a for a in told if a in ("yes", "no")), ("yes", "no")),
            (Counter(a for a in told if a in ("A", "B")), ("A", "B")),
        ]
    for counts, possible in drawn:
        assert set(counts) == set(possible)
        expected = counts.total() / len(possible)
        assert all(abs(n - expected) < 5 * expected**0.5 for n in counts.values()), counts


def test_single_questions_take_turns_in_skill_and_attribute():
    counts = Counter((d.category, d.attribute) for d in drafts(SingleImage(size=160)))
    assert set(counts.values()) == {10}
    assert {category for category, _ in counts} == set(SKILLS)
    for draft in drafts(SingleImage(size=160)):
        if draft.category == "which_caption":
            texts = options(draft.body.split("? ")[1])
            a, b = (text.split() for text in texts.values())
            wrong = [name for name, x, y in zip(draft.views[0], a, b, strict=True) if x != y]
            assert wrong == [draft.attribute]


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("setting", dials(IndexedQuestion, "digits"), ids=str)
def test_every_wrong_value_tells_the_views_it_came_from(world, setting):
    values = world_of(world).attributes
    for draft in drafts(IndexedQuestion(world=world, size=48, **setting)):
        (target,) = draft.about
        shown = [view[draft.attribute] for view in draft.views]
        others = shown[:target] + shown[target + 1 :]
        assert draft.answer not in others
        assert list(draft.distractors) == list(dict.fromkeys(others))
        # they repeat only where there are not values enough, and then as little as they can
        wrong = len(values[draft.attribute]) - 1
        assert len(set(others)) == min(len(others), wrong)
        assert max(Counter(others).values()) == -(-len(others) // wrong)
        assert draft.choices == values[draft.attribute]


def test_similarities_can_take_turns():
    asked = drafts(IndexedQuestion(size=160, similarity=None))
    counts = Counter((d.about, d.attribute, d.similarity) for d in asked)
    assert len(counts) == 2 * 4 * 4
    assert set(counts.values()) == {5}
    for draft in asked:
        rest = [name for name in draft.views[0] if name != draft.attribute]
        assert sum(draft.views[0][n] == draft.views[1][n] for n in rest) == draft.similarity


@pytest.mark.parametrize("world", WORLDS)
def test_six_questions_about_two_views(world):
    """Every wrong option that is offered is true of the other view, or of none."""
    size = 12 * len(world_of(world).attributes)
    counts = Counter()
    for order in range(TwoViews.orders):
        asked = drafts(TwoViews(world=world, size=size, order=order))
        for number in range(size):
            group = asked[6 * number : 6 * number + 6]
            assert len({d.cluster for d in group}) == len({str(d.views) for d in group}) == 1
            assert [d.category for d in group] == ["mc"] * 2 + ["binary"] * 4
            assert [d.about for d in group] == [(0,), (1,), (0,), (0,), (1,), (1,)]
            assert len({d.group for d in group}) == 3
            values = [view[group[0].attribute] for view in group[0].views]
            assert values[0] != values[1]
            for draft, own, other in zip(group, values, reversed(values), strict=False):
                listed = options(draft.body.split("? ")[1])
                assert (listed[draft.answer], listed[draft.distractors[0]]) == (own, other)
                assert len(set(listed.values())) == len(listed) == len(draft.choices)
                counts[order, draft.attribute, draft.answer] += 1
            if len(group[0].choices) == 3:  # one letter for both is never right twice
                assert group[0].answer != group[1].answer
            for pair in (group[2:4], group[4:]):
                assert sorted(d.answer for d in pair) == ["no", "yes"]
                assert {d.body.split()[-2] for d in pair} == set(values)
    for attribute in world_of(world).attributes:  # no letter is favoured
        assert len({n for (_, name, _), n in counts.items() if name == attribute}) == 1


@pytest.mark.parametrize("world", WORLDS)
def test_the_asked_view_can_be_fixed(world):
    free = drafts(IndexedQuestion(world=world, size=24, num_images=3))
    assert [d.about[0] for d in free] == [0, 1, 2] * 8
    fixed = drafts(IndexedQuestion(world=world, size=24, num_images=3, position=2))
    assert {d.about for d in fixed} == {(2,)}
    assert all("in the third" in d.body for d in fixed)
    assert len({d.attribute for d in fixed}) == len(world_of(world).attributes)
    assert not {d.id for d in free} & {d.id for d in fixed}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("order", range(LeakageProbe.orders))
def test_probe_letters_tell_whose_description_was_chosen(world, order):
    for setting in dials(LeakageProbe, world):
        for draft in drafts(LeakageProbe(world=world, size=36, order=order, **setting)):
            texts = options(draft.body.split("right ? ")[1])
            by_text = {" ".join(view.values()): i for i, view in enumerate(draft.views)}
            (target,), (leaked,) = draft.about, draft.distractors
            other, merged = draft.extra["other"], texts[draft.extra["merged"]]
            assert sorted([draft.answer, leaked, draft.extra["merged"]]) == ["A", "B", "C"]
            assert draft.views[other] == draft.views[by_text[texts[leaked]]]
            assert other != target
            assert merged not in by_text  # true of no view
            names = list(draft.views[target])
            mixed = dict(zip(names, merged.split(), strict=True))
            assert difference(mixed, draft.views[target]) == {draft.attribute}
            assert mixed[draft.attribute] == draft.views[other][draft.attribute]
            assert len(difference(draft.views[other], draft.views[target])) >= 2


@pytest.mark.parametrize("world", WORLDS)
def test_orders_turn_the_options_of_the_probe(world):
    orders = [drafts(LeakageProbe(world=world, size=24).reordered(k)) for k in range(3)]
    for turned in zip(*orders, strict=True):
        texts = [list(options(d.body.split("right ? ")[1]).values()) for d in turned]
        assert texts[1:] == [texts[0][1:] + texts[0][:1], texts[0][2:] + texts[0][:2]]
        assert len({d.id for d in turned}) == 1
        assert [d.views for d in turned] == [turned[0].views] * 3
        assert {d.answer for d in turned} == {d.extra["merged"] for d in turned} == set("ABC")
        for draft in turned:  # the place of the answer in the first order
            first = draft.permutation[draft.choices.index(draft.answer)]
            assert first == turned[0].choices.index(turned[0].answer)


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("order", [0, 1])
def test_minimal_pairs_are_asked_four_times(world, order):
    benchmark = MinimalPair(world=world, size=2 * len(world_of(world).attributes), direction="both")
    examples = iter(benchmark.reordered(order))
    attributes = Counter()
    for quartet in zip(*[examples] * 4, strict=True):
        first, second, *texts = quartet
        frames = first.metadata["frames"]
        assert len({e.cluster for e in quartet}) == 1
        assert first.group == second.group != texts[0].group == texts[1].group
        assert [e.category for e in quartet] == ["image", "image", "text", "text"]
        assert [digest(x) for x in first.images] == [digest(x) for x in second.images]
        assert first.truths == second.truths
        attributes[first.metadata["attribute"]] += 1
        for asked, (image, text) in enumerate(zip((first, second), texts, strict=True)):
            place = (asked + order) % 2
            assert (image.answer, text.answer) == (ORDINALS[place], LETTERS[place])
            assert text.truths == (image.truths[place],)
            view = image.images[place * frames : (place + 1) * frames]
            assert [digest(x) for x in text.images] == [digest(x) for x in view]
            captions = options(text.question.split("right ? ")[1])
            described = [" ".join(truth.values()) for truth in image.truths]
            assert list(captions.values()) == described
    assert set(attributes.values()) == {2}
    assert set(attributes) == set(world_of(world).attributes)


@pytest.mark.parametrize("world", WORLDS)
def test_pairs_differ_in_one_attribute_or_in_time(world):
    changes = set()
    for draft in drafts(MinimalPair(world=world, size=60)):
        changed = difference(*draft.views)
        if world == "clips" and changed == {"start", "end"}:  # played backwards
            a, b = draft.views
            assert (a["start"], a["end"]) == (b["end"], b["start"])
            assert draft.attribute in changed
        else:
            assert changed == {draft.attribute}
        if world == "clips" and draft.attribute == "motion":
            motions = frozenset(view["motion"] for view in draft.views)
            assert motions in ({"rightward", "leftward"}, {"upward", "downward"},
                               {"appearing", "vanishing"})  # fmt: skip
        changes.add(frozenset(changed))
    assert (frozenset({"start", "end"}) in changes) == (world == "clips")
