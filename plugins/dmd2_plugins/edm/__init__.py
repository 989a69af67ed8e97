"""The EDM family (Karras et al. 2022): ADM, DDPM++ and NCSN++ networks and the teachers published with it."""
