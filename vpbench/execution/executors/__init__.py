"""The executors, one module or package each; its name is the executor's."""
