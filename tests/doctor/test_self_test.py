from sfumato.doctor.self_test import training, writing


def test_training_passes_its_own_test():
    found = {finding.what: finding for finding in training()}
    assert set(found) >= {"the loss falls", "resume", "save and load"}
    assert {finding.verdict for finding in found.values()} == {"ok"}, found


def test_the_bundled_model_passes_its_own_test():
    found = {finding.what: finding for finding in writing("cpu", "float32")}
    assert set(found) == {"same seed, same text", "cached and uncached", "alone and in a batch", "the known text"}
    assert {finding.verdict for finding in found.values()} == {"ok"}, found
