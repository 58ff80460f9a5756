"""Every score against brute force on small nets: all paths enumerated, networkx, finite differences."""

import networkx
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from stand_ins import Grouped, Tiny

from pruner.channel_graph import surviving_edges, to_networkx
from pruner.masks import Mask, prunable_layers
from pruner.key_mask import scores as score_functions, split as key_masks
from pruner.key_mask.scores import SCORES, WALKS, Scoring, edge_betweenness, sampled_edge_betweenness
from pruner.magnitude import prune_smallest
from utils.errors import UserError


def sparse(model, density: float, seed: int) -> Mask:
    generator = torch.Generator().manual_seed(seed)
    return Mask({name: torch.rand(layer.weight.shape, generator=generator) < density
                 for name, layer in prunable_layers(model).items()})


def tiny_scoring(seed: int = 0, density: float = 0.6, net: type[torch.nn.Module] = Tiny, **more) -> Scoring:
    torch.manual_seed(seed)
    model = net()
    generator = torch.Generator().manual_seed(seed)
    return Scoring(model, sparse(model, density, seed), torch.rand(6, 3, 8, 8, generator=generator),
                   torch.randint(0, 2, (6,), generator=generator), seed=seed, **more)


def all_paths(scoring: Scoring) -> list[list[tuple]]:
    """Every path from a picture's channel to a class, as its edges' attributes."""
    graph, strengths = scoring.graph()
    joined = to_networkx(graph, strengths)
    paths = []
    for source in graph.inputs:
        for output in graph.outputs:
            for nodes in networkx.all_simple_paths(joined, int(source), int(output)):
                paths.append([joined.edges[pair] for pair in zip(nodes, nodes[1:])])
    return paths


def brute_force_products(scoring: Scoring) -> dict[str, np.ndarray]:
    sums = {name: np.zeros(kept.shape[:2]) for name, kept in scoring.mask.items()}
    for path in all_paths(scoring):
        product = np.prod([edge["strength"] for edge in path])
        for edge in path:
            if edge["layer"] in sums:
                sums[edge["layer"]][edge["kernel"]] += product
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("net", [Tiny, Grouped])
@pytest.mark.parametrize("name", SCORES)
def test_one_number_per_weight_minus_infinity_where_pruned(name, net):
    scoring = tiny_scoring(num_paths=50, net=net)
    scores, again = SCORES[name](scoring), SCORES[name](scoring)
    assert list(scores) == list(scoring.mask)
    for layer, kept in scoring.mask.items():
        assert scores[layer].shape == kept.shape and scores[layer].dtype == torch.float64
        assert (scores[layer][~kept] == -torch.inf).all()
        assert torch.isfinite(scores[layer][kept]).all()
        assert torch.equal(scores[layer], again[layer])


@pytest.mark.slow
@settings(max_examples=25)
@given(seed=st.integers(0, 10**6), density=st.floats(0.15, 1.0), net=st.sampled_from([Tiny, Grouped]))
def test_ewp_is_the_sum_over_all_paths(seed, density, net):
    scoring = tiny_scoring(seed, density, net)
    expected = brute_force_products(scoring)
    top = max(sums.max() for sums in expected.values())
    if top == 0:
        with pytest.raises(UserError, match="no path"):
            SCORES["ewp"](scoring)
        return
    for layer, scores in SCORES["ewp"](scoring).items():
        kept = scoring.mask[layer]
        wanted = torch.from_numpy(expected[layer] / top)[:, :, None, None].expand(kept.shape)
        assert torch.allclose(scores[kept], wanted[kept], rtol=1e-9, atol=1e-12)


def test_ewp_stays_in_range_in_deep_and_loud_nets(make_model):
    model = make_model("res20s")
    for layer in prunable_layers(model).values():
        layer.weight.data *= 1e20  # products along a path leave float64 by far
    scores = SCORES["ewp"](Scoring(model, Mask.dense(model)))
    assert max(float(layer.max()) for layer in scores.values()) == 1.0
    assert all(torch.isfinite(layer).all() and (layer >= 0).all() for layer in scores.values())


@pytest.mark.parametrize("net", [Tiny, Grouped])
def test_drawn_paths_approach_their_distribution(net):
    scoring = tiny_scoring(3, num_paths=200_000, net=net)
    paths = all_paths(scoring)
    products = np.array([np.prod([edge["strength"] for edge in path]) for path in paths])
    for name, weights in (("ewp_sampled", products), ("random_path", np.ones(len(paths)))):
        share = {layer: np.zeros(kept.shape[:2]) for layer, kept in scoring.mask.items()}
        for path, weight in zip(paths, weights / weights.sum()):
            for edge in path:
                if edge["layer"] in share:
                    share[edge["layer"]][edge["kernel"]] += weight
        for layer, scores in SCORES[name](scoring).items():
            drawn = scores.amax((2, 3)).clamp_min(0).numpy()
            sigma = np.sqrt(scoring.num_paths * share[layer] * (1 - share[layer]))
            assert (np.abs(drawn - scoring.num_paths * share[layer]) <= 5 * sigma + 1e-9).all()


def test_every_drawn_path_runs_from_the_picture_to_a_class():
    # layer c1 and the shortcut `down` beside it are a cut: each path crosses exactly one kernel of the two
    scoring = tiny_scoring(1, num_paths=777)
    scores = SCORES["ewp_sampled"](scoring)
    crossing = sum(scores[layer].amax((2, 3)).clamp_min(0).sum() for layer in ("c1", "down"))
    assert crossing == 777


@settings(max_examples=15)
@given(seed=st.integers(0, 10**6), density=st.floats(0.1, 1.0), net=st.sampled_from([Tiny, Grouped]))
def test_betweenness_is_networkxs(seed, density, net):
    scoring = tiny_scoring(seed, density, net)
    graph, strengths = scoring.graph()
    reference = networkx.edge_betweenness_centrality(to_networkx(graph, strengths), normalized=False, weight="distance")
    edges = surviving_edges(graph, strengths)
    expected = np.array([reference[pair] for pair in zip(edges.source.tolist(), edges.target.tolist())])
    np.testing.assert_allclose(edge_betweenness(graph.nodes, edges), expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(sampled_edge_betweenness(graph.nodes, edges, graph.nodes, seed), expected, atol=1e-9)


@pytest.mark.nightly
def test_betweenness_of_a_whole_resnet20(make_model):
    model = make_model("res20s", classes=10)
    scoring = Scoring(model, sparse(model, 0.1, 0))
    graph, strengths = scoring.graph()
    joined = to_networkx(graph, strengths)
    reference = networkx.edge_betweenness_centrality(joined, normalized=False, weight="distance")
    expected = {name: np.zeros(kept.shape[:2]) for name, kept in scoring.mask.items()}
    for pair, value in reference.items():
        if joined.edges[pair]["layer"] in expected:
            expected[joined.edges[pair]["layer"]][joined.edges[pair]["kernel"]] = value
    for name, scores in SCORES["betweenness"](scoring).items():
        kept = scoring.mask[name]
        wanted = torch.from_numpy(expected[name])[:, :, None, None].expand(kept.shape)
        assert torch.allclose(scores[kept], wanted[kept], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("limit, samples, said", [(0, None, True), (0, 5, False), (None, None, False)])
def test_a_long_search_says_so_and_how_to_shorten_it(make_model, monkeypatch, capsys, limit, samples, said):
    model = make_model("res20s", classes=10)
    if limit is not None:
        monkeypatch.setattr("pruner.key_mask.scores.LONG_SEARCH", limit)
    SCORES["betweenness"](Scoring(model, sparse(model, 0.02, 0), betweenness_samples=samples))
    printed = capsys.readouterr().out
    assert ("--betweenness_samples estimates it" in printed) == said and bool(printed) == said


@pytest.mark.slow
def test_sampled_betweenness_is_unbiased(make_model):
    model = make_model("res20s", classes=10)
    graph, strengths = Scoring(model, sparse(model, 0.1, 0)).graph()
    edges = surviving_edges(graph, strengths)
    exact = edge_betweenness(graph.nodes, edges)
    estimates = [sampled_edge_betweenness(graph.nodes, edges, 70, seed) for seed in range(40)]
    # the total of all edges is what a bias would shift; 40 draws of a tenth of the sources each
    totals = np.array([estimate.sum() for estimate in estimates])
    assert abs(totals.mean() - exact.sum()) < 4 * totals.std(ddof=1) / np.sqrt(len(totals))
    single, averaged = estimates[0], np.mean(estimates, axis=0)
    assert np.abs(averaged - exact).mean() < 0.5 * np.abs(single - exact).mean()


def flat_loss(scoring: Scoring, weights: dict[str, torch.Tensor]) -> torch.Tensor:
    logits = torch.func.functional_call(scoring.model, {f"{n}.weight": w for n, w in weights.items()},
                                        (scoring.pictures,))
    return F.cross_entropy(logits, scoring.labels)


@pytest.fixture
def double_scoring():
    """In double precision, so that finite differences are sharp; one pair of weights per layer is probed."""
    scoring = tiny_scoring(2)
    scoring.model.double()
    scoring.pictures = scoring.pictures.double()
    return scoring


def derivative(function, step: float = 1e-5) -> float:
    with torch.no_grad():
        return float((function(step) - function(-step)) / (2 * step))


@pytest.mark.slow
def test_taylor_and_integrated_gradients_against_finite_differences(double_scoring):
    scoring = double_scoring
    weights = {name: scoring.weight(name) for name in scoring.mask}
    taylor, integrated = SCORES["taylor1_abs"](scoring), SCORES["intgrads"](scoring)
    for name, kept in scoring.mask.items():
        for place in map(tuple, np.argwhere(kept.numpy())[::7]):
            def shifted(step, scale=1.0):
                moved = {other: scale * weight for other, weight in weights.items()}
                moved[name] = moved[name].clone()
                moved[name][place] += step
                return flat_loss(scoring, moved)

            w = float(weights[name][place])
            assert float(taylor[name][place]) == pytest.approx(abs(w * derivative(shifted)), rel=1e-4, abs=1e-9)
            mean = np.mean([derivative(lambda step: shifted(step, (k + 0.5) / 20)) for k in range(20)])
            assert float(integrated[name][place]) == pytest.approx(abs(w * mean), rel=1e-3, abs=1e-9)


@pytest.mark.slow
def test_integrated_gradients_add_up_to_the_change_in_loss(double_scoring):
    # completeness: with signs, the sum over all weights is L(w) - L(0)
    scoring = double_scoring
    weights = {name: scoring.weight(name) for name in scoring.mask}
    none = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    change = (flat_loss(scoring, weights) - flat_loss(scoring, none)).item()
    from pruner.key_mask.scores import _gradients

    total = sum(float((weight * gradient).sum()) / 200 for step in range(200)
                for _, weight, gradient in _gradients(scoring, (step + 0.5) / 200))
    assert total == pytest.approx(change, rel=1e-3)


def test_hessian_against_finite_differences_of_the_gradient(double_scoring):
    scoring = double_scoring
    weights = {name: scoring.weight(name) for name in scoring.mask}

    def gradients(step):
        moved = {name: ((1 + step) * weight).requires_grad_() for name, weight in weights.items()}
        return dict(zip(moved, torch.autograd.grad(flat_loss(scoring, moved), list(moved.values()))))

    ahead, behind = gradients(1e-5), gradients(-1e-5)
    for name, scores in SCORES["hessian_abs"](scoring).items():
        kept = scoring.mask[name]
        wanted = (weights[name] * (ahead[name] - behind[name]) / 2e-5).abs()
        assert torch.allclose(scores[kept], wanted[kept], rtol=1e-4, atol=1e-9)


def test_omp_is_the_magnitude_and_random_is_uniform():
    scoring = tiny_scoring(5)
    for name, scores in SCORES["omp"](scoring).items():
        kept = scoring.mask[name]
        assert torch.equal(scores[kept], scoring.weight(name).abs().double()[kept])
    first, second = (SCORES["random"](tiny_scoring(5)), SCORES["random"](tiny_scoring(6)))
    assert not torch.equal(first["b2"], second["b2"])


def test_data_driven_scores_say_that_they_need_pictures():
    scoring = tiny_scoring()
    scoring.pictures = None
    for name in ("taylor1_abs", "hessian_abs", "intgrads"):
        with pytest.raises(UserError, match="needs pictures"):
            SCORES[name](scoring)


def test_a_ticket_without_any_path_is_refused():
    scoring = tiny_scoring()
    for name in ("c1", "down"):
        scoring.mask[name][:] = False
    for name in ("ewp", "ewp_sampled", "random_path"):
        with pytest.raises(UserError, match="no path"):
            SCORES[name](scoring)


def chances_of_a_walk(scoring: Scoring, name: str) -> dict[str, np.ndarray]:
    """Of each kernel [out, in / groups], how likely one walk is to step on it: the chain of channels, by its definition."""
    modules, chances, at = dict(scoring.model.named_modules()), {}, None
    for layer, kept in scoring.mask.items():
        strength = (scoring.weight(layer).abs() * kept).sum((2, 3)).double().numpy()
        strength = strength if name == "ewp" else (strength > 0) * 1.0
        (outputs, columns), groups = strength.shape, modules[layer].groups
        joined = np.zeros((columns * groups, outputs))  # from channel to channel
        for output in range(outputs):
            group = output * groups // outputs
            joined[group * columns:(group + 1) * columns, output] = strength[output]
        read = joined.sum(1) > 0
        now = np.zeros(len(joined))
        for channel, share in enumerate(at if at is not None else []):
            if channel < len(now) and read[channel]:
                now[channel] += share
        now[read] += (1 - now.sum()) / read.sum()
        taken = now[:, None] * joined / np.where(read, joined.sum(1), 1)[:, None]
        at = taken.sum(0)
        chances[layer] = np.array([taken[output * groups // outputs * columns:][:columns, output] for output in range(outputs)])
    return chances


@pytest.mark.slow
@pytest.mark.parametrize("net", [Tiny, Grouped])
@pytest.mark.parametrize("name", WALKS)
def test_walks_go_hop_by_hop_by_the_strength_of_each(net, name):
    scoring, draws = tiny_scoring(4, net=net, num_paths=1), 500
    taken = {layer: np.zeros(kept.shape[:2]) for layer, kept in scoring.mask.items()}
    for scoring.seed in range(draws):
        for layer, scores in WALKS[name](scoring).items():
            stepped = scores.amax((2, 3)).numpy() > 0
            assert stepped.sum() == 1
            taken[layer] += stepped
    for layer, chance in chances_of_a_walk(scoring, name).items():
        assert chance.sum() == pytest.approx(1)
        assert (np.abs(taken[layer] - draws * chance) <= 5 * np.sqrt(draws * chance * (1 - chance)) + 1e-9).all()


@pytest.mark.parametrize("name", WALKS)
def test_a_key_by_walks_is_what_the_first_walks_step_on(name):
    """The sooner stepped on the higher, and walks go on until the key is full."""
    scoring = tiny_scoring(4, density=1.0)
    scoring.key_nonzeros = round(0.6 * scoring.mask.nonzeros)
    scores = WALKS[name](scoring)
    steps = sorted({1 / value for layer in scores.values() for value in layer.unique().tolist() if value > 0})
    hops = len(scoring.mask)
    assert sum(int((layer > 0).sum()) for layer in scores.values()) >= scoring.key_nonzeros
    assert all(abs(step - round(step)) < 1e-6 for step in steps) and [round(step) for step in steps[:hops]] == list(range(1, hops + 1))
    for position, layer in enumerate(scores.values()):  # each layer is stepped on when its turn comes
        assert {round(1 / value) % hops for value in layer.unique().tolist() if value > 0} == {(position + 1) % hops}


@pytest.fixture(scope="module")
def sparse_resnet18(make_model):
    """A ResNet-18 with the mask of its largest weights, 1.24% as the extreme ticket on CIFAR-10."""
    model = make_model("res18")
    return model, prune_smallest({name: layer.weight for name, layer in prunable_layers(model).items()}, Mask.dense(model), 0.9876)


@pytest.mark.slow
@pytest.mark.parametrize("score", [SCORES["random_path"], SCORES["ewp_sampled"], *WALKS.values()], ids=lambda score: score.__name__)
def test_paths_are_drawn_until_they_fill_a_key_of_a_sparse_ticket(sparse_resnet18, capsys, score):
    model, mask = sparse_resnet18
    scores = score(Scoring(model, mask, key_nonzeros=round(0.2 * mask.nonzeros)))
    key, _ = key_masks.split(mask, scores, 0.2)
    assert all((scores[name][kept] > 0).all() for name, kept in key.items())
    assert "warning" not in capsys.readouterr().err
    # a thousand paths do not suffice; what is missing was taken from the first layers, nearly whole
    assert sum(int((layer > 0).sum()) for layer in score(Scoring(model, mask)).values()) < key.nonzeros
    assert int(key["layer1.0.conv1"].sum()) < 0.6 * int(mask["layer1.0.conv1"].sum())


@pytest.mark.parametrize("score", [SCORES["random_path"], SCORES["ewp_sampled"], *WALKS.values()], ids=lambda score: score.__name__)
def test_what_fills_up_a_key_is_drawn_and_warned_of(score, make_model, monkeypatch, capsys):
    monkeypatch.setattr(score_functions, "MOST_PATHS", 1)
    model = make_model("res20s")
    mask = sparse(model, 0.2, 0)
    scores = score(Scoring(model, mask, num_paths=1, key_nonzeros=mask.nonzeros // 2))
    assert "fill it up" in capsys.readouterr().err
    rest = {name: layer[kept & (layer <= 0)] for (name, layer), kept in zip(scores.items(), mask.values())}
    key, _ = key_masks.split(mask, scores, 0.5)
    for name, kept in key.items():  # from all layers alike, not from the first ones
        assert abs(int(kept.sum()) / int(mask[name].sum()) - 0.5) < 0.1
        assert len(rest[name].unique()) > 100


def test_published_betweenness_sees_layer_sizes_alone(monkeypatch):
    """All shortest paths counted in the graph that the published code builds: named nodes, no weights, every kernel."""
    monkeypatch.setattr(score_functions, "PUBLISHED_SOURCES", 1)  # all nodes, so no draw
    scoring = tiny_scoring(2)
    graph, counts, names = networkx.Graph(), {}, [*scoring.mask, "final"]
    for layer, behind in zip(names, names[1:]):
        outputs, inputs = scoring.mask[layer].shape[:2]
        graph.add_edges_from((f"{layer}.{i}", f"{behind}.{o}") for i in range(inputs) for o in range(outputs))
    for source in graph:
        for target in graph:
            paths = list(networkx.all_shortest_paths(graph, source, target)) if source != target else []
            for path in paths:
                for pair in zip(path, path[1:]):
                    counts[frozenset(pair)] = counts.get(frozenset(pair), 0) + 1 / len(paths)
    scored = [(counts[frozenset((f"{layer}.{i}", f"{behind}.{o}"))], float(scores[o, i].max()))
              for (layer, scores), behind in zip(SCORES["betweenness_published"](scoring).items(), names[1:])
              for o in range(scores.shape[0]) for i in range(scores.shape[1]) if scores[o, i].max() > -torch.inf]
    ranked = [round(count, 6) for count, _ in sorted(scored, key=lambda pair: pair[1])]
    assert ranked == sorted(ranked)
    loud = tiny_scoring(2)
    loud.model.c2.weight.data *= 100
    assert all(torch.equal(scores, SCORES["betweenness_published"](loud)[layer])
               for layer, scores in SCORES["betweenness_published"](scoring).items())


@pytest.mark.slow
@pytest.mark.parametrize("score", ["taylor1_abs", "hessian_abs", "intgrads"])
def test_pictures_in_parts_score_as_all_at_once(monkeypatch, make_model, make_dataset, score):
    """Seven pictures at a time, the last part shorter; memory is what parts are for."""
    pictures, labels = next(make_dataset(train=32).train.batches(32))
    model = make_model()
    mask = Mask.dense(model)
    whole = SCORES[score](Scoring(model, mask, pictures, labels))
    monkeypatch.setattr(score_functions, "PART", 7)
    sizes = []
    model.register_forward_hook(lambda module, inputs, output: sizes.append(len(inputs[0])))
    parts = SCORES[score](Scoring(model, mask, pictures, labels))
    assert set(sizes) == {7, 4}
    for name in mask:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=1e-6 * float(whole[name].max()))
