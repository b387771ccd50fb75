"""Networks and front-ends that several encoders share."""
