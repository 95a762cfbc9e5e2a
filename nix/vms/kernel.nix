# nixpkgs has no hardened kernel and no hardened profile any more: this is the newest long-term kernel, with what hardens it by
# its own means. Nothing here asks for a patch; `minivmm` boots its bzImage, so that KASLR is at work.
{ lib, pkgs, ... }:

{
  boot.kernelPackages = lib.mkDefault pkgs.linuxPackages;

  boot.kernelPatches = [
    {
      name = "hardened";
      patch = null;
      structuredExtraConfig = with lib.kernel; {
        # What goes wrong ends the VM, which is started again.
        BUG_ON_DATA_CORRUPTION = yes;
        PANIC_ON_OOPS = yes;
        SCHED_STACK_END_CHECK = yes;
        # Memory is as random, and as empty, as can be.
        INIT_ON_ALLOC_DEFAULT_ON = yes;
        INIT_ON_FREE_DEFAULT_ON = yes;
        RANDOMIZE_KSTACK_OFFSET_DEFAULT = yes;
        SHUFFLE_PAGE_ALLOCATOR = yes;
        SLAB_MERGE_DEFAULT = no;
        # Views into the kernel.
        PROC_KCORE = no;
      };
    }
  ];

  boot.kernelParams = [
    "debugfs=off"
    "init_on_alloc=1"
    "init_on_free=1"
    "oops=panic"
    "page_alloc.shuffle=1"
    "randomize_kstack_offset=on"
    "slab_nomerge"
    "vsyscall=none"
  ];

  boot.kernel.sysctl = {
    "dev.tty.ldisc_autoload" = 0;
    "fs.protected_fifos" = 2;
    "fs.protected_regular" = 2;
    "fs.suid_dumpable" = 0;
    "kernel.dmesg_restrict" = 1;
    "kernel.io_uring_disabled" = 2;
    "kernel.kexec_load_disabled" = 1;
    "kernel.kptr_restrict" = 2;
    "kernel.perf_event_paranoid" = 3;
    "kernel.sysrq" = 0;
    "kernel.unprivileged_bpf_disabled" = 1;
    "kernel.yama.ptrace_scope" = 2;
    "net.core.bpf_jit_harden" = 2;
  };
}
