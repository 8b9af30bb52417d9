"""The rules of a valid machine, a file per subject. `machine.check` lists them."""
