"""python -m avmixup_kit"""

from avmixup_kit.cli import main

if __name__ == "__main__":
    main()
