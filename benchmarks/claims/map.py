"""Error rates by labelled minutes, updates and method: one panel of the map at a time.

    python -m benchmarks.claims.map --archive digits.tar --out claims --minutes 1 --updates 500

The nano model on strings of digits, or another one (`--model`). Each seed leaves another speaker
out of training, validation and the test of known speakers, and is tested on that speaker too. The
learning rate of each method is chosen with the first seed, by character errors of the last
checkpoint on the validation split: three are tried, and up to two more while the best is the lowest
or highest one tried. Rows are printed as they are measured, of words and then of characters, in
percent; interrupted, the same command goes on.
"""

from benchmarks.claims.command import panel_command
from benchmarks.claims.methods import METHODS

main = panel_command(METHODS, __doc__)

if __name__ == "__main__":
    main()
