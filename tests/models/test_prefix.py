"""The frozen prefix: a network cut in two is the same network, and a training on kept rows the same
training.
"""

from __future__ import annotations

import resource

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer, vgg

from tlx.errors import Stopped
from tlx.features import voting
from tlx.models import backbones, freezing, training
from tlx.models.backbones import BackboneRow
from tlx.models.frozen_prefix import cache as kept
from tlx.models.frozen_prefix import choice as frozen_prefix_choice
from tlx.models.frozen_prefix import split as frozen_prefix_split
from tlx.models.network import Network
from tlx.models.recipe import Recipe
from tlx.models.samples import BatchLoader, Samples


class Noise:
    """Pixels of random images, c crops each."""

    def __init__(self, n, crops, channels, size):
        self.crops = crops
        self._array = np.random.default_rng(n).integers(
            0, 256, (n * crops, size, size, channels), dtype=np.uint8
        )

    def take(self, rows):
        return self._array[rows]


def parts(net, train=20, val=6, crops=1):
    """Training and validation samples of three classes that `net` can take."""
    noise = Noise(train + val, crops, net.channels, net.input_size)
    labels = np.arange(train + val) % 3
    return tuple(
        Samples(noise, images, labels[images])
        for images in (np.arange(train), np.arange(train, train + val))
    )


def load(name="mnist-cnn", size=None):
    if name == "vit":  # the class of vit_b_16, for smaller images
        row = BackboneRow(title="vit", model="vit", input_size=32, classes=3)
        torch.manual_seed(0)
        net = VisionTransformer(
            image_size=32,
            patch_size=8,
            num_layers=4,
            num_heads=4,
            hidden_dim=64,
            mlp_dim=128,
            num_classes=3,
            dropout=0.1,
        )
        nn.init.normal_(net.heads.head.weight)  # zero at first
        return Network(net, row, ("heads.head",))
    if name == "vgg16":  # with one dense layer for its 120 million weights
        net = vgg.VGG(vgg.make_layers(vgg.cfgs["D"]), init_weights=False)
        torch.manual_seed(0)
        net.classifier = nn.Sequential(nn.Dropout(), nn.Linear(25088, 3))
        return Network(
            net, BackboneRow(title="vgg", model="vgg", input_size=32, classes=3), ("classifier.1",)
        )
    return backbones.load(name, weights=None, classes=3, seed=0, head="linear", input_size=size)


def fit(recipe, *, name="mnist-cnn", size=None, net=None, frozen=None, counts=(20, 6, 1), **place):
    """A training and what is left of it: every number of the network, of the history and of the
    scoring.
    """
    net = net or load(name, size)
    data = parts(net, *counts)
    outcome = training.fit(
        net,
        *data,
        recipe,
        seed=5,
        score=voting.accuracy,
        frozen=frozen,
        place=training.TrainingContext(**place),
    )
    history = [
        {k: v for k, v in values.items() if not k.endswith("_s")} for values in outcome.history
    ]
    numbers = {k: v.clone() for k, v in net.state_dict().items()}
    return (history, numbers, training.predict(net, data[1], recipe)), outcome


def assert_same(a, b):
    assert a[0] == b[0]
    assert a[1].keys() == b[1].keys()
    assert [k for k in a[1] if not frozen_prefix_split.same_bits(a[1][k], b[1][k])] == []
    assert a[2].tobytes() == b[2].tobytes()


@pytest.fixture
def always(monkeypatch):
    """Keep whatever can be kept: these rows are too few and small to pay."""
    monkeypatch.setattr(frozen_prefix_choice, "FLOPS_PER_BYTE", {"memory": 0, "file": 0})


# ---------------------------------------------------------------- one network in two parts

CUTS = [
    ("mnist-cnn", 28, (1, 2, 3)),
    ("resnet20-cifar", 32, (1, 5, 10)),
    ("resnet18", 32, (1, 4, 9)),
    ("resnet50", 32, (3, 17)),
    ("vgg16", 32, (2, 13)),
    ("mobilenet_v2", 32, (1, 10, 19)),
    ("efficientnet-lite0", 32, (1, 14, 18)),
    ("convnext_tiny", 32, (1, 9, 22)),
    ("vit", 32, (1, 2, 5)),
    ("densenet121", 32, (1, 8, 62)),
    ("swin_t", 32, (1, 7, 16)),
    ("timm:xcit_nano_12_p16_224", 224, (2, 8)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size", "depths"), CUTS, ids=[row[0] for row in CUTS])
def test_the_two_parts_are_the_network(name, size, depths):
    net = load(name, size)
    names = list(net.state_dict())
    x = torch.randn(3, net.channels, size, size, generator=torch.Generator().manual_seed(1))
    for depth in depths:
        cut = frozen_prefix_split.find(net, depth, x)
        assert not cut.before(net, x).requires_grad
        hold = freezing.freeze(net, depth)
        logits, gradients = [], []
        for run in (net, lambda rows, cut=cut: cut.after(net, cut.before(net, rows).clone())):
            hold.train()
            torch.manual_seed(3)  # of the suffix's dropout
            logits.append(run(x))
            net.zero_grad()
            logits[-1].square().sum().backward()
            gradients.append(
                {k: p.grad.clone() for k, p in net.named_parameters() if p.grad is not None}
            )
        assert torch.equal(*logits)
        assert (
            gradients[0].keys()
            == gradients[1].keys()
            == {k for k, p in net.named_parameters() if p.requires_grad}
        )
        for key in gradients[0]:
            assert torch.equal(gradients[0][key], gradients[1][key]), (depth, key)
    assert list(net.state_dict()) == names
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in net.modules())


def test_the_suffix_does_not_run_the_prefix():
    net = load("resnet18", 32)
    x = torch.randn(4, 3, 32, 32)
    cut = frozen_prefix_split.find(net, 5, x)
    z = cut.before(net, x)
    with frozen_prefix_split._Flops() as whole:
        net(x)
    with frozen_prefix_split._Flops() as counted:
        cut.after(net, z)
    assert 0 < counted.total == 4 * cut.flops[1] == whole.total - 4 * cut.flops[0]
    assert cut.flops[0] > 0


def test_the_arithmetic_of_both_parts_is_counted():
    net = load("mnist-cnn")
    cut = frozen_prefix_split.find(net, 2, torch.zeros(2, 1, 28, 28))
    convolutions = 2 * (9 * 32 * 26 * 26 + 9 * 32 * 64 * 11 * 11)
    assert cut.flops == (convolutions, 2 * (1600 * 128 + 128 * 3))


def row_of(size=8):
    return BackboneRow(
        title="odd", model="odd", input_size=size, mean=(0.5,), std=(0.5,), classes=3
    )


class Odd(nn.Module):
    """Three layers and a head, with something odd about how they are used."""

    def __init__(self, way=""):
        super().__init__()
        self.way = way
        generator = torch.Generator().manual_seed(0)
        for name, (wide, high) in {
            "a": (64, 16),
            "b": (16, 16),
            "c": (16, 16),
            "head": (16, 3),
        }.items():
            setattr(self, name, nn.Linear(wide, high))
            getattr(self, name).weight.data = torch.randn(high, wide, generator=generator) / 4
            nn.init.zeros_(getattr(self, name).bias)

    def forward(self, x):
        a = self.a(x.flatten(1))
        if self.way == "chance":
            a = F.dropout(a, 0.5, self.training)
        if self.way == "company":
            a = a + x.mean()
        b = self.b(self.b(a)) if self.way == "twice" else self.b(F.relu(a))
        if self.way == "skip":
            b = b + a
        if self.way == "in place":
            kept = self.c.bias.detach().expand_as(b).clone()
            kept.copy_(a)
            b = b + kept
        c = self.c(F.relu(b))
        if self.way == "pair":
            c = c + a + b + x.flatten(1)[:, :16]
        return self.head(F.relu(c))


def odd(way=""):
    return Network(Odd(way), row_of(), ("head",))


@pytest.mark.parametrize(
    ("way", "depth", "refusal"),
    [
        ("skip", 2, "more than the output of block 2"),
        ("in place", 2, "do not give the bits of the whole"),
        ("twice", 2, "runs more than once"),
    ],
)
def test_a_network_that_is_not_one_chain_there_is_not_cut(way, depth, refusal):
    net = odd(way)
    x = torch.randn(4, 1, 8, 8)
    with pytest.raises(frozen_prefix_split.CannotSplit, match=refusal):
        frozen_prefix_split.find(net, depth, x)
    assert (
        frozen_prefix_split.find(net, depth + 1, x).depth == depth + 1 if way != "twice" else True
    )
    assert not any("forward" in m.__dict__ or m._forward_hooks for m in net.modules())


@pytest.mark.slow
def test_dense_connections_are_cut_between_dense_blocks_only():
    net = load("densenet121", 32)
    x = torch.randn(2, 3, 32, 32)
    for depth, block in enumerate(net.blocks, 1):
        if depth % 9 == 0 and "denselayer" in block.name:
            with pytest.raises(frozen_prefix_split.CannotSplit, match="more than the output"):
                frozen_prefix_split.find(net, depth, x)


# ---------------------------------------------------------------- which blocks are held


@pytest.mark.parametrize(("bn", "depth"), [("frozen", 4), ("adapt", 0), ("keras2", 0)])
def test_batch_norm_that_follows_the_data_ends_the_prefix(bn, depth):
    net = load("resnet18", 32)
    freezing.freeze(net, 4, bn=bn).train()
    assert frozen_prefix_choice.held(net) == depth


def test_convolutions_held_by_name_make_a_prefix_where_nothing_between_them_learns():
    for net, names, depth in (
        (load("vgg16"), freezing.published_configuration("vgg16", 1), 4),
        (load("resnet50", 32), freezing.published_configuration("resnet50", 1), 0),
    ):
        freezing.freeze(net, names).train()
        assert frozen_prefix_choice.held(net) == depth


def test_dropout_at_work_ends_the_prefix():
    net = load("mnist-cnn")
    freezing.freeze(net, ("conv1", "conv2", "fc1")).train()  # the dropouts are not named
    assert frozen_prefix_choice.held(net) == 1
    freezing.freeze(net, 3).train()
    assert frozen_prefix_choice.held(net) == 3


# ---------------------------------------------------------------- the same training

FITS = [  # backbone, size, cut, settings
    ("mnist-cnn", None, 1, {}),
    ("mnist-cnn", None, 2, {"channels_last": True}),
    ("mnist-cnn", None, 3, {}),
    ("mnist-cnn", None, 2, {"precision": "bfloat16"}),
    ("mnist-cnn", None, 2, {"ema": 0.8, "optimizer": "adam"}),
    ("mnist-cnn", None, 2, {"batch_size": 7}),
    ("mnist-cnn", None, 2, {"batch_size": 1}),
    ("mnist-cnn", None, 1, {"head_epochs": 2, "epochs": 4}),
    ("mnist-cnn", None, 0, {"head_epochs": 2, "epochs": 3}),
    ("resnet18", 32, 3, {"channels_last": True}),
    ("resnet18", 32, 7, {"head_epochs": 2, "epochs": 4}),
    ("resnet18", 32, 9, {}),
    ("mobilenet_v2", 32, 12, {}),
    ("mobilenet_v2", 32, 17, {"precision": "bfloat16"}),
    ("efficientnet-lite0", 32, 14, {}),
    ("efficientnet-lite0", 32, 9, {"channels_last": True}),
    ("convnext_tiny", 32, 18, {}),
    ("vit", 32, 3, {}),
    ("vit", 32, 5, {"precision": "bfloat16"}),
    ("densenet121", 32, 46, {}),
]


@pytest.mark.slow
@pytest.mark.usefixtures("always")
@pytest.mark.sampled(10)
@pytest.mark.parametrize(("name", "size", "depth", "settings"), FITS, ids=str)
def test_a_training_on_kept_rows_is_the_same_to_the_bit(name, size, depth, settings):
    recipe = Recipe(
        **{"epochs": 3, "batch_size": 16, "freeze": depth, "learning_rate": 0.02} | settings
    )
    counts = (9, 3, 5) if name == "mnist-cnn" else (23, 5, 1)  # a partial last batch
    kept, outcome = fit(recipe, name=name, size=size, counts=counts)
    computed, other = fit(recipe, name=name, size=size, counts=counts, prefix_bytes=0)
    assert_same(kept, computed)
    assert kept[0][0]["train_loss"] != kept[0][-1]["train_loss"]
    stages = (recipe.head_epochs > 0) + (recipe.freeze > 0)
    assert [c.kept for c in outcome.prefixes] == ["memory"] * stages
    assert [c.kept for c in other.prefixes] == [""] * stages


@pytest.mark.slow
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("name", "size", "settings"),
    [
        ("mnist-cnn", None, {"freeze": 2, "head_epochs": 2}),
        ("mnist-cnn", None, {"freeze": 0, "head_epochs": 2}),
        ("mnist-cnn", None, {"freeze": 2, "ema": 0.7}),
        ("resnet18", 32, {"freeze": 6}),
        ("efficientnet-lite0", 32, {"freeze": 14}),
    ],
    ids=str,
)
def test_it_is_the_training_of_the_whole_network(monkeypatch, name, size, settings):
    """In full batches of sixteen and more, where the prefix runs as it would with the rest."""
    recipe = Recipe(epochs=4, batch_size=16, **settings)
    kept, outcome = fit(recipe, name=name, size=size, counts=(32, 16, 1))
    assert outcome.prefixes[0].kept
    monkeypatch.setattr(
        frozen_prefix_choice, "choose", lambda hold, train, val, wish: (train, val, None)
    )
    whole, _ = fit(recipe, name=name, size=size, counts=(32, 16, 1))
    assert_same(kept, whole)


@pytest.mark.usefixtures("always")
def test_ten_crops_are_rows_of_their_own():
    recipe = Recipe(epochs=2, freeze=2, batch_size=32)
    kept, outcome = fit(recipe, counts=(7, 3, 10))
    assert (outcome.prefixes[0].rows, outcome.prefixes[0].kept) == (100, "memory")
    assert_same(kept, fit(recipe, counts=(7, 3, 10), prefix_bytes=0)[0])


class Killed(BaseException):
    pass


@pytest.mark.crash
@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    "settings",
    [{"freeze": 2}, {"head_epochs": 2}, {"freeze": 1, "head_epochs": 2, "ema": 0.7}],
    ids=str,
)
@pytest.mark.parametrize("limits", [(1 << 30, 1 << 30), (1 << 30, 0), (0, 1 << 30)], ids=str)
def test_killed_and_continued_with_or_without_kept_rows_is_the_same(tmp_path, settings, limits):
    recipe = Recipe(epochs=4, batch_size=16, **settings)
    whole, _ = fit(recipe)

    def die_in(epoch):
        def on_epoch(number, values):
            if number == epoch:
                raise Killed

        return on_epoch

    file = tmp_path / "training.safetensors"
    for epoch in (1, 2, 3):
        with pytest.raises(Killed):
            fit(recipe, checkpoint=file, on_epoch=die_in(epoch), prefix_bytes=limits[epoch % 2])
    again, _ = fit(recipe, checkpoint=file, prefix_bytes=limits[0])
    assert_same(again, whole)


@pytest.mark.usefixtures("always")
def test_averaged_weights_are_scored_behind_the_same_prefix():
    recipe = Recipe(epochs=3, freeze=2, ema=0.5, batch_size=16)
    kept, _ = fit(recipe)
    plain, _ = fit(recipe.replace(ema=0.0))
    assert kept[0] != plain[0]


@pytest.mark.usefixtures("always")
@pytest.mark.parametrize(
    ("way", "why"), [("company", "the other rows"), ("chance", "in training than in scoring")]
)
def test_rows_that_depend_on_more_than_the_row_are_not_kept(way, why):
    recipe = Recipe(epochs=2, freeze=2, batch_size=16)
    kept, outcome = fit(recipe, net=odd(way), counts=(40, 20, 1))
    assert why in outcome.prefixes[0].reason
    assert outcome.prefixes[0].kept == ""
    assert_same(kept, fit(recipe, net=odd(way), counts=(40, 20, 1), prefix_bytes=0)[0])


@pytest.mark.usefixtures("always")
def test_what_cannot_be_cut_trains_as_it_is():
    recipe = Recipe(epochs=2, freeze=2, batch_size=16)
    _, outcome = fit(recipe, net=odd("twice"))
    assert len(outcome.history) == 2
    assert outcome.prefixes == [
        frozen_prefix_choice.CacheDecision(1, "memory", outcome.prefixes[0].reason, 26, 26 * 16 * 4)
    ]
    _, outcome = fit(recipe, net=odd("pair"))
    assert outcome.prefixes == [
        frozen_prefix_choice.CacheDecision(
            0,
            "",
            "2 frozen blocks run with the rest: more than the output of block 2 is read after it",
        )
    ]
    assert fit(recipe.replace(freeze=0), net=odd())[1].prefixes == []


@pytest.mark.slow
@pytest.mark.usefixtures("always")
def test_where_it_cannot_be_cut_the_last_place_before_is_taken():
    recipe = Recipe(epochs=2, freeze=10, batch_size=16)  # in the second dense block
    kept, outcome = fit(recipe, name="densenet121", size=32)
    assert outcome.prefixes[0].depth == 8
    assert_same(kept, fit(recipe, name="densenet121", size=32, prefix_bytes=0)[0])


# ---------------------------------------------------------------- a file of them


@pytest.fixture
def filed(monkeypatch, always):
    monkeypatch.setattr("tlx.models.samples.RESIDENT_BYTES", 0)


@pytest.mark.usefixtures("filed")
def test_more_than_memory_takes_is_kept_in_a_file_that_has_no_name(tmp_path):
    recipe, seen = Recipe(epochs=3, freeze=2, batch_size=16), []
    kept, outcome = fit(
        recipe,
        checkpoint=tmp_path / "training.safetensors",
        on_batch=lambda done, of: seen.append(sorted(p.name for p in tmp_path.iterdir())),
    )
    assert (outcome.prefixes[0].kept, outcome.prefixes[0].bytes) == ("file", 26 * 64 * 5 * 5 * 4)
    assert {name for names in seen for name in names} == {"training.safetensors"}
    assert_same(kept, fit(recipe, prefix_bytes=0)[0])


@pytest.mark.usefixtures("filed")
def test_a_full_disk_costs_no_training(tmp_path):
    recipe = Recipe(epochs=2, freeze=2, batch_size=16)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))  # bytes of a file
    try:
        net = load()
        hold = freezing.freeze(net, 2)
        feeds = [BatchLoader(part, net.mean, net.std, "cpu") for part in parts(net)]
        *_, choice = frozen_prefix_choice.choose(
            hold,
            *feeds,
            frozen_prefix_choice.CacheRequest(
                batch_size=16, score_batch=8, epochs=5, folder=tmp_path
            ),
        )
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "no space to write" in choice.reason
    assert choice.kept == ""
    assert list(tmp_path.iterdir()) == []
    assert_same(fit(recipe, checkpoint=tmp_path / "t")[0], fit(recipe, prefix_bytes=0)[0])


@pytest.mark.usefixtures("filed")
def test_a_file_needs_a_folder_and_half_of_what_is_free(tmp_path, monkeypatch):
    recipe = Recipe(epochs=2, freeze=2)
    assert fit(recipe)[1].prefixes[0].reason.endswith("and there is no folder for a file")
    monkeypatch.setattr("tlx.files.free_bytes", lambda path: 200_000)
    _, outcome = fit(recipe, checkpoint=tmp_path / "t")
    assert outcome.prefixes[0].reason.endswith("more than half of the 200.0 kB that are free")


@pytest.mark.usefixtures("always")
def test_a_stop_is_heard_while_rows_are_kept():
    calls, told = iter(range(100)), []
    with pytest.raises(Stopped):
        fit(
            Recipe(freeze=2, batch_size=16),
            counts=(100, 3, 1),
            stopping=lambda: next(calls) > 2,
            on_choice=told.append,
        )
    assert next(calls) == 4
    assert told == []


# ---------------------------------------------------------------- what is kept


@pytest.mark.slow
@pytest.mark.usefixtures("always")
@pytest.mark.sampled(6)
@pytest.mark.parametrize("bfloat16", [False, True])
@pytest.mark.parametrize("contiguous", [False, True])
@pytest.mark.parametrize(("name", "depth"), [("resnet18", 4), ("resnet18", 9), ("mobilenet_v2", 3)])
def test_kept_rows_are_the_computed_ones_in_bits_and_in_memory(name, depth, contiguous, bfloat16):
    net = load(name, 32).to(
        memory_format=torch.contiguous_format if contiguous else torch.channels_last
    )
    hold = freezing.freeze(net, depth)
    feeds = [BatchLoader(part, net.mean, net.std, "cpu", contiguous) for part in parts(net, 37, 17)]
    wish = frozen_prefix_choice.CacheRequest(
        batch_size=16, score_batch=16, epochs=9, bfloat16=bfloat16
    )
    train, val, _ = frozen_prefix_choice.choose(hold, *feeds, wish)
    fresh, _, _ = frozen_prefix_choice.choose(
        hold,
        *feeds,
        frozen_prefix_choice.CacheRequest(
            batch_size=16, score_batch=16, epochs=9, limit=0, bfloat16=bfloat16
        ),
    )
    assert isinstance(train, kept.CachedBatches)
    assert isinstance(fresh, kept.ComputedBatches)
    assert train.batch(np.arange(2))[0].dtype == (torch.bfloat16 if bfloat16 else torch.float32)
    order = np.random.default_rng(2).permutation(37)
    for (a, y), (b, other) in zip(train.batches(16, order), fresh.batches(16, order), strict=True):
        assert frozen_prefix_split.same_bits(a, b)
        assert (a.stride(), a.shape) == (b.stride(), b.shape)
        assert torch.equal(y, other)
    net.eval()
    for (z, y), (x, other) in zip(val.batches(16), feeds[1].batches(16), strict=True):
        with torch.no_grad(), kept.arithmetic("cpu", bfloat16):
            assert frozen_prefix_split.same_bits(val.logits(net, z), net(x))
        assert torch.equal(y, other)


# ---------------------------------------------------------------- whether it pays


def decide(flops=(1_000_000, 500_000), values=100, rows=(900, 100), **wish):
    layout = kept.RowLayout((values,), (1,), torch.float32)
    settings = {"batch_size": 64, "score_batch": 256, "epochs": 10} | wish
    return frozen_prefix_choice._decide(
        frozen_prefix_split.SplitPoint(9, "nine", {}, (1, 8, 8), flops),
        layout,
        rows,
        "cpu",
        frozen_prefix_choice.CacheRequest(**settings),
    )


def test_the_estimate_is_the_law():
    choice = decide()
    full, kept = 900 * (1 + 3 * 0.5) + 100 * 1.5, (1000 / 10 + 900 * 1.5 + 100 * 0.5)
    assert (
        f"saves about {100 * (1 - kept / full):.0f} % of the arithmetic of 10 epochs"
        in choice.reason
    )
    assert choice.reason.startswith(
        "prefix of 9 blocks kept in memory: 1,000 rows × 100 values = 400.0 kB"
    )
    assert (choice.rows, choice.bytes, choice.kept) == (1000, 400_000, "memory")


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"epochs": 1}, "one epoch reads them only once"),
        ({"limit": 399_999}, "above the limit of 400.0 kB"),
        ({"flops": (4000, 10**9)}, "reading them back takes no less time"),
        ({"values": 10**7, "limit": 10**12, "flops": (10**10, 1)}, "no folder"),
    ],
)
def test_it_is_not_kept_when_it_does_not_pay_or_fit(changed, why):
    choice = decide(**changed)
    assert (choice.kept, choice.bytes) == ("", 0)
    assert why in choice.reason
    assert choice.reason.startswith("prefix of 9 blocks computed in every epoch: 1,000 rows × ")


def test_the_choice_is_told():
    told = []
    _, outcome = fit(Recipe(epochs=2, freeze=2), on_choice=told.append)
    assert told == outcome.prefixes
    assert len(told) == 1
