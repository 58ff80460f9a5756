"""MAKE: masks, magnitude pruning, the search for winning tickets, key masks, and the code written into masks."""

# score functions for key masks by name, as `--help` explains them; the functions are in `pruner.key_mask.scores.SCORES`
SPLITS: dict[str, str] = {
    "identity": "no key, the mask as it is",
    "omp": "largest weights",
    "random": "weights at random",
    "ewp": "kernels by the sum of all paths' edge-weight products",
    "ewp_sampled": "kernels by how many paths, drawn by their product, use them",
    "random_path": "kernels by how many paths, drawn evenly, use them",
    "betweenness": "kernels by weighted edge betweenness",
    "betweenness_published": "kernels by edge betweenness as the published code takes it, of a graph without weights that "
                             "holds pruned kernels too, from one channel in 100",
    "taylor1_abs": "|w dL/dw|",
    "hessian_abs": "|w Hw|",
    "intgrads": "integrated gradients",
}
# those of them that draw paths, so that --num_paths alone can say how large the key is
PATH_SPLITS = ("ewp", "ewp_sampled", "random_path")
# those whose key may be all kernels that walks step on, hop by hop
WALK_SPLITS = ("ewp", "random_path")
