"""The benchmark: what a better start and a second level save, measured against PySCF's own best."""
