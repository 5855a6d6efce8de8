"""Protocol buffer definitions and the code generated from them (`python -m rattle.services.utils.generate_protos`)."""
