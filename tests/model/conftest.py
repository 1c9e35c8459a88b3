from model_fixtures import detected, forward, model, pictures, tiny, without_machine_code  # noqa: F401
