"""How fast a machine trains and tests each network, beside a textbook loop and the speed of its matrix products.

`measure` times one network and `python -m esc_lib.bench` all of them; records are kept under `data/benchmarks/`.
"""

from esc_lib.bench.measure import benchmark_table, matmul, matmul_size, measure

__all__ = ["benchmark_table", "matmul", "matmul_size", "measure"]
