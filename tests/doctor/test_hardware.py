from sfumato.doctor.hardware import available_cores, available_memory, busy, graphics, memory, processors


def test_every_machine_has_cores_and_memory():
    total, free = available_memory()
    assert available_cores() > 0 and total > 2**28 and (free is None or 0 < free <= total)


def test_what_the_machine_has_is_told():
    found = {finding.what: finding for finding in (*processors(), *memory(), *graphics())}
    assert found["CPU"].figures["cores"] == available_cores() and found["memory"].figures["total"] > 0
    assert any(what.startswith("GPU") for what in found)


def test_a_busy_machine_is_a_warning():
    assert busy(1.9, 2).verdict == "ok"
    assert busy(9.0, 2).verdict == "warn" and "9.0 processes want the 2 cores" in busy(9.0, 2).found
