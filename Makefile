# What each verb does is in xtask/; `cargo xtask help` says more.

.PHONY: help demo test soak lint fuzz lab guest kernel images actual tools clean-lab

help:
	@echo 'make demo        run examples/adguard.toml and show what it does'
	@echo 'make test        run all tests, those that boot guests where KVM is able'
	@echo 'make soak        run the tests that boot guests in all sizes, and record what came of it'
	@echo 'make lint        check formatting, warnings and scripts'
	@echo 'make fuzz        run every fuzz target for 30 s'
	@echo "make lab CMD='…' run a shell command where KVM is able: here, or in the lab"
	@echo 'make guest       make the guest of the tests and the demo'
	@echo 'make images      make the images of service VMs'
	@echo 'make kernel      build the hardened kernel of service VMs'
	@echo 'make actual      make those of Actual Budget'
	@echo 'make tools       install what the other verbs need'
	@echo 'make clean-lab   remove what the lab, the guests and the tools keep in target/lab'

demo test soak lint fuzz guest kernel tools clean-lab:
	@cargo xtask $@

images:
	@cargo xtask image

actual:
	@cargo xtask image base actual

lab:
	@cargo xtask lab -- sh -c "$$LAB_CMD"

# As it was given: make would expand a dollar sign in it.
export LAB_CMD := $(value CMD)
