"""`python -m hf_ptr`: the command line, where its script is not on the path."""

from hf_ptr.cli import main

if __name__ == "__main__":
    main()
