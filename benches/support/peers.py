"""Sweeps of other libraries on a matrix that the bench hands over.

    peers.py DIRECTORY RANK LAMBDA THREADS

DIRECTORY holds the matrix as little-endian arrays: indptr (int64), indices (int32), strengths r (float32), users x items,
and shape (two int64). Reads names of peers from standard input, one a line; trains that peer by one iteration (both
sides) and answers one line of JSON: the seconds of the iteration and the largest relative residual of the normal
equations over a sample of the item rows, which were solved last. All peers minimise the same sum:
sum_observed (1 + r)(1 - u.v)^2 + sum_unobserved (u.v)^2 + lambda (|U|^2 + |V|^2), in float32.
"""

import json
import logging
import os
import sys
import time
import types

directory, rank, regularization, threads = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), int(sys.argv[4])
# Both libraries share rows out among threads of their own: BLAS must not add more (implicit warns of it itself).
os.environ.update(OPENBLAS_NUM_THREADS="1", MKL_NUM_THREADS="1", OMP_NUM_THREADS="1")
os.environ.update(LK_NUM_THREADS=str(threads), LK_NUM_BACKEND_THREADS="1")


class StandIn(types.ModuleType):
    """Answers every name with a class. LensKit imports PyTorch (gigabytes) at its start, but its alternating least
    squares is its own compiled code and never calls it."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        # Decorators that LensKit applies on import hand the function back.
        made = type(name, (), {"__new__": lambda cls, *given, **named: given[0] if given else object.__new__(cls)})
        setattr(self, name, made)
        return made


def without_torch():
    torch = StandIn("torch")
    torch.__path__ = []
    nothing = lambda *given, **named: None
    torch.set_num_threads = torch.set_num_interop_threads = nothing
    for name in ["jit", "cuda", "multiprocessing", "multiprocessing.reductions"]:
        module = StandIn("torch." + name)
        sys.modules["torch." + name] = module
        owner, _, last = ("torch." + name).rpartition(".")
        setattr(torch if owner == "torch" else sys.modules[owner], last, module)
    torch.cuda.is_available = lambda: False
    torch.multiprocessing.set_sharing_strategy = nothing
    sys.modules["torch"] = torch


import numpy as np
import scipy.sparse as sparse


def load():
    read = lambda name, kind: np.fromfile(os.path.join(directory, name), dtype=kind)
    shape = tuple(int(n) for n in read("shape", "<i8"))
    return sparse.csr_matrix((read("strengths", "<f4"), read("indices", "<i4"), read("indptr", "<i8")), shape=shape)


class Implicit:
    def __init__(self, matrix, use_cg):
        from implicit.cpu.als import AlternatingLeastSquares

        # implicit takes the whole weight of an observed pair, 1 + r.
        self.matrix = sparse.csr_matrix((matrix.data + np.float32(1), matrix.indices, matrix.indptr), shape=matrix.shape)
        self.model = AlternatingLeastSquares(
            factors=rank,
            regularization=regularization,
            alpha=1.0,
            dtype=np.float32,
            use_native=True,
            use_cg=use_cg,
            iterations=1,
            num_threads=threads,
            random_state=1,
        )

    def iterate(self):
        took = []
        # The library's own clock of one iteration; the transposition before it is not in it.
        self.model.fit(self.matrix, show_progress=False, callback=lambda _, seconds, __: took.append(seconds))
        return took[-1]

    def factors(self):
        return self.model.user_factors, self.model.item_factors


class LensKit:
    def __init__(self, matrix):
        without_torch()
        from lenskit.als import ImplicitMFScorer
        from lenskit.als._implicit import ImplicitMFTrainer
        from lenskit.training import TrainingOptions

        class OnMatrix(ImplicitMFTrainer):
            """Takes the matrix as it is, without LensKit's data frames around it."""

            def prepare_matrix(self, data):
                coo = sparse.coo_array(matrix)
                return sparse.coo_array((coo.data, (coo.row.astype(np.int32), coo.col.astype(np.int32))), shape=coo.shape)

        logging.disable(logging.INFO)
        data = types.SimpleNamespace(users=None, items=None, user_count=matrix.shape[0], item_count=matrix.shape[1])
        self.scorer = ImplicitMFScorer(embedding_size=rank, regularization=regularization, weight=1.0, use_ratings=True)
        self.trainer = OnMatrix(self.scorer, data, TrainingOptions(rng=1))

    def iterate(self):
        begin = time.perf_counter()
        self.trainer.train_epoch()
        return time.perf_counter() - begin

    def factors(self):
        return self.scorer.user_embeddings, self.scorer.item_embeddings


def residual(transposed, users, items):
    """Largest ||A v - b|| / ||b|| over a sample of item rows, in float64."""
    users = np.asarray(users, dtype=np.float64)
    gram = users.T @ users + regularization * np.eye(rank)
    worst = 0.0
    for row in range(0, transposed.shape[0], max(1, transposed.shape[0] // 200)):
        begin, end = transposed.indptr[row], transposed.indptr[row + 1]
        if begin == end:
            continue
        counterparts, r = users[transposed.indices[begin:end]], transposed.data[begin:end].astype(np.float64)
        v = np.asarray(items[row], dtype=np.float64)
        right = counterparts.T @ (r + 1)
        left = gram @ v + counterparts.T @ (r * (counterparts @ v))
        worst = max(worst, float(np.linalg.norm(left - right) / np.linalg.norm(right)))
    return worst


def main():
    import implicit
    import importlib.metadata

    matrix = load()
    transposed = matrix.T.tocsr()
    makers = {
        "implicit-cholesky": lambda: Implicit(matrix, use_cg=False),
        "implicit-cg": lambda: Implicit(matrix, use_cg=True),
        "lenskit-cholesky": lambda: LensKit(matrix),
    }
    versions = {name: importlib.metadata.version(name) for name in ["implicit", "lenskit", "numpy", "scipy"]}
    print(json.dumps({"versions": versions}), flush=True)
    peers = {}
    for name in map(str.strip, sys.stdin):
        if name not in peers:
            peers[name] = makers[name]()
        seconds = peers[name].iterate()
        print(json.dumps({"seconds": seconds, "residual": residual(transposed, *peers[name].factors())}), flush=True)


main()
