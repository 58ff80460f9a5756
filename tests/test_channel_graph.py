"""The channel graph, counted by hand, and against what the network really computes."""

import numpy as np
import pytest
import torch
from stand_ins import Grouped, Tiny
from torch import nn

from pruner.channel_graph import channel_graph, kernel_strengths, per_kernel, surviving_edges, to_networkx
from utils.errors import UserError


def strengths_of(model, graph):
    modules = dict(model.named_modules())
    return kernel_strengths(graph, lambda name: modules[name].weight.detach())


def test_a_tiny_net_counted_by_hand():
    model = Tiny()
    graph = channel_graph(model)
    # nodes: 3 picture channels, 2 of the stem, 2 + 3 + 2 inside the blocks, 2 + 4 + 3 of the three sums, 2 classes
    assert graph.nodes == 23
    assert (len(graph.inputs), len(graph.outputs)) == (3, 2)
    edges = surviving_edges(graph, strengths_of(model, graph))
    # kernels of conv1, a1, a2, b1, b2, c1, c2, down, fc; then 2 + 2 identity edges (two padded channels have no source)
    assert len(edges.source) == 6 + 4 + 4 + 6 + 12 + 8 + 6 + 12 + 6 + 2 + 2
    by_layer = {step.layer: step for step in graph.steps if step.layer}
    assert (by_layer["c2"].targets == by_layer["down"].targets).all(), "both lead into the same sum"
    assert (by_layer["c1"].sources == by_layer["b2"].targets).all()
    identities = [step for step in graph.steps if step.layer is None]
    assert (identities[0].sources == by_layer["conv1"].targets).all()
    assert (identities[0].targets == by_layer["a2"].targets).all()
    assert (identities[1].targets == by_layer["b2"].targets[1:3]).all()


def test_groups_branches_and_flattened_pictures_counted_by_hand():
    model = Grouped()
    graph = channel_graph(model)
    assert graph.nodes == 3 + 4 + 4 + 6 + (4 + 2) + 2
    strengths = strengths_of(model, graph)
    edges = surviving_edges(graph, strengths)
    assert len(edges.source) == 4 * 3 + 4 + 6 * 4 + 4 * 3 + 2 * 6 + 2 * 6
    by_layer = {step.layer: step for step in graph.steps}
    halves, fc = by_layer["halves"], by_layer["fc"]
    pairs = set(zip(edges.source[edges.step == 3].tolist(), edges.target[edges.step == 3].tolist()))
    assert pairs == {(int(halves.sources[into]), int(halves.targets[out])) for out in range(4) for into in range(6)
                     if (out < 2) == (into < 3)}
    assert (fc.sources == np.concatenate([halves.targets, by_layer["beside"].targets])).all()
    # what a class reads of channel c are four of its inputs
    assert strengths["fc"][1, 2] == pytest.approx(model.fc.weight[1, 8:12].abs().sum().item(), rel=1e-6)
    assert strengths["depth"].shape == (4, 1) and strengths["halves"].shape == (4, 3)


@pytest.mark.parametrize(("arch", "nodes", "identities"), [
    # picture, stem, inner and outer channels of every block, classes
    ("res20s", 3 + 16 + 6 * 16 + 6 * 32 + 6 * 64 + 10, 9),
    ("res18", 3 + 64 + 4 * (64 + 128 + 256 + 512) + 10, 5),
    ("res50", 3 + 64 + 3 * 384 + 4 * 768 + 6 * 1536 + 3 * 3072 + 10, 12),
])
def test_our_networks(make_model, arch, nodes, identities):
    model = make_model(arch, classes=10)
    graph = channel_graph(model)
    assert graph.nodes == nodes
    assert sum(step.layer is None for step in graph.steps) == identities
    layers = [name for name, m in model.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert sorted(layers) == sorted(step.layer for step in graph.steps if step.layer)


def test_steps_come_in_the_order_of_computation(make_model):
    for model in (Tiny(), Grouped(), make_model("res20s"), make_model("res18")):
        graph = channel_graph(model)
        for index, step in enumerate(graph.steps):
            for later in graph.steps[index:]:
                assert not set(later.targets) & set(step.sources), "nothing flows into a source once it is used"


@pytest.mark.parametrize("build", [lambda make: Tiny().double(), lambda make: Grouped().double(),
                                   lambda make: make("res20s").double()])
def test_channels_that_are_not_joined_do_not_influence_each_other(make_model, build):
    # in random sparse nets, a class depends on a picture's channel exactly if the graph has a path between them
    import networkx

    joined, apart = 0, 0
    for seed in range(6):
        model, generator = build(make_model).eval(), torch.Generator().manual_seed(seed)
        for module in model.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                keep = torch.rand(module.weight.shape[:2], generator=generator) < 0.8 / module.weight.shape[1]
                module.weight.data = module.weight.data.abs()
                module.weight.data[~keep] = 0
                if module.bias is not None:
                    module.bias.data.zero_()
        graph = channel_graph(model)
        found = to_networkx(graph, strengths_of(model, graph))
        picture = torch.rand(1, 3, 8, 8, generator=generator, dtype=torch.float64, requires_grad=True)
        logits = model(picture)
        for label, output in enumerate(graph.outputs):
            gradient, = torch.autograd.grad(logits[0, label], picture, retain_graph=True)
            for channel, source in enumerate(graph.inputs):
                path = networkx.has_path(found, int(source), int(output))
                assert bool(gradient[0, channel].any()) == path
                joined, apart = joined + path, apart + (not path)
    assert joined and apart, "the nets must have both"


def test_networkx_graph_carries_the_kernels():
    model = Tiny()
    model.a1.weight.data[1, 0] = 0
    graph = channel_graph(model)
    joined = to_networkx(graph, strengths_of(model, graph))
    by_layer = {step.layer: step for step in graph.steps if step.layer}
    assert not joined.has_edge(int(by_layer["a1"].sources[0]), int(by_layer["a1"].targets[1]))
    edge = joined.edges[int(by_layer["b2"].sources[1]), int(by_layer["b2"].targets[3])]
    assert (edge["layer"], edge["kernel"]) == ("b2", (3, 1))
    assert edge["strength"] == pytest.approx(model.b2.weight[3, 1].abs().sum().item(), rel=1e-6)
    assert edge["distance"] == 1 / edge["strength"]


def test_edge_values_go_back_to_their_kernels():
    model = Tiny()
    model.c2.weight.data[2, 1] = 0
    graph = channel_graph(model)
    strengths = strengths_of(model, graph)
    edges = surviving_edges(graph, strengths)
    back = per_kernel(graph, strengths, edges, edges.strength)
    assert all((back[name] == strengths[name]).all() for name in strengths)


def test_what_it_cant_follow_it_names():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv1(x) * torch.sigmoid(x)

    class Doubled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv1(x) + x

    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv1(x) if x.sum() > 0 else x

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv1 = nn.Conv2d(3, 3, 1)

        def forward(self, x):
            return self.conv1(self.conv1(x))

    class Regrouped(nn.Module):
        def __init__(self, norm, channels):
            super().__init__()
            self.conv1, self.norm, self.fc = nn.Conv2d(3, 4, 1), norm, nn.Linear(channels, 2)

        def forward(self, x):
            return self.fc(self.norm(self.conv1(x)).mean((2, 3)))

    with pytest.raises(UserError, match="can't follow call_function"):
        channel_graph(Gated())
    with pytest.raises(UserError, match="conv1 is used more than once"):
        channel_graph(Twice())
    with pytest.raises(UserError, match="can't follow the layer norm, a GroupNorm"):
        channel_graph(Regrouped(nn.GroupNorm(2, 4), 4))
    with pytest.raises(UserError, match="fc reads 7 inputs of 4 channels"):
        channel_graph(Regrouped(nn.ReLU(), 7))
    doubled = channel_graph(Doubled())
    with pytest.raises(UserError, match="two edges of the channel graph join the same channels"):
        to_networkx(doubled, strengths_of(Doubled(), doubled))
    with pytest.raises(UserError, match="can't be traced"):
        channel_graph(Branching())
