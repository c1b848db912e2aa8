"""Files, test, one rename, one signal, proof. The types keep the order: Draft -> Tested -> Published -> Live."""
