"""Many molecules on several processes: multiprocessing and joblib."""

import multiprocessing
import os

# One thread for each worker. Read when the libraries are loaded, so set before they are imported.
for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ[name] = "1"

MOLECULES = {
    "water": "O 0 0 0.12; H 0 0.76 -0.47; H 0 -0.76 -0.47",
    "ammonia": "N 0 0 0.12; H 0 0.94 -0.27; H 0.81 -0.47 -0.27; H -0.81 -0.47 -0.27",
    "methane": "C 0 0 0; H 0.63 0.63 0.63; H -0.63 -0.63 0.63; H 0.63 -0.63 -0.63; H -0.63 0.63 -0.63",
}


def energy(name):
    """Converge one molecule; runs in a worker.

    The import belongs here: a worker is a process of its own, and without it PySCF does not have 'ml' there. It takes
    unknown words for 'minao' without a message.
    """
    import pyscf

    import pyscf_mlham

    mol = pyscf.M(atom=MOLECULES[name], basis="6-31g", verbose=0)
    mf = pyscf_mlham.accelerate(mol.RHF()).run()
    return name, mf.e_tot, mf.full_builds


def main():
    """Run the molecules in two processes."""
    # "spawn", not "fork": a copy of a process with running threads can block
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        found = sorted(pool.map(energy, MOLECULES))
    for name, e_tot, builds in found:
        print(f"multiprocessing: {name:8s} {e_tot:.6f} Ha, {builds} full builds")

    try:
        import joblib
    except ImportError:
        print("joblib: not installed, left out (pip install joblib)")
    else:
        again = sorted(joblib.Parallel(n_jobs=2)(joblib.delayed(energy)(name) for name in MOLECULES))
        for one, other in zip(found, again, strict=True):
            assert one[0] == other[0] and abs(one[1] - other[1]) < 1e-8
        print("joblib: the same energies")
    assert len(found) == len(MOLECULES)


if __name__ == "__main__":  # needed with "spawn": a worker imports this file
    main()
