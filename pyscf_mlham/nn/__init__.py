"""Networks: torch modules from a `Batch` to blocks. Nothing here imports pyscf."""
