"""`python -m delora_eval.fidelity`: runs the studies, writes docs/FIDELITY.md."""

from delora_eval.fidelity.studies import main

if __name__ == "__main__":
    main()
