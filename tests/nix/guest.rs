//! What the module changes in the guest, and what it leaves alone.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    Test,
    nix::{Nix, World, root, vm},
};

pub const TESTS: &[Test] = &[
    Test {
        name: "guest::systemd_is_in_the_initrd_unless_somebody_says_otherwise",
        run: initrd,
    },
    Test {
        name: "guest::a_vm_with_another_hypervisor_is_as_it_was",
        run: others,
    },
    Test {
        name: "guest::both_vms_of_the_flake_evaluate_without_a_warning",
        run: services,
    },
];

/// Values of a VM's configuration, which is `c`.
fn of(nix: &Nix, module: &str, expression: &str) -> Result<Value> {
    nix.eval(&format!("let c = e.vm ({module}); in {expression}"))
}

fn initrd(world: &World) -> Result<()> {
    let nix = world.nix()?;
    let seed = vm("seed");
    let what = "[ c.boot.initrd.systemd.enable c.microvm.systemSymlink c.microvm.minivmm.ready c.warnings ]";
    let is = of(&nix, &seed, what)?;
    ensure!(is == json!([true, true, "vcpus", []]), "{is}");

    let off = format!(
        "{{ imports = [ {seed} ]; boot.initrd.systemd.enable = false; microvm.systemSymlink = false; \
         microvm.vsock.cid = 9; }}"
    );
    let is = of(&nix, &off, what)?;
    ensure!(is == json!([false, false, "guest", []]), "{is}");

    let modules = "builtins.elem \"dmi_sysfs\" c.boot.initrd.availableKernelModules";
    for (name, expected) in [("seed", false), ("full", true)] {
        let is = of(&nix, &vm(name), modules)?;
        ensure!(is == json!(expected), "{name}: {is}");
    }
    Ok(())
}

fn others(world: &World) -> Result<()> {
    let nix = world.nix()?;
    // What minivmm would refuse.
    let qemu = "{ networking.hostName = \"q\"; microvm.graphics.enable = true; \
                microvm.minivmm.credentialsInInitrd = true; }";
    let is = of(
        &nix,
        qemu,
        "[ c.microvm.hypervisor c.microvm.systemSymlink c.boot.initrd.systemd.enable \
         (builtins.elem \"dmi_sysfs\" c.boot.initrd.availableKernelModules) ]",
    )?;
    ensure!(is == json!(["qemu", false, true, false]), "{is}");
    let said = nix.refusal("(e.vm { microvm.hypervisor = \"minivm\"; }).microvm.hypervisor")?;
    ensure!(
        said.contains("microvm.hypervisor' is not of type `one of"),
        "{said}"
    );
    Ok(())
}

fn services(world: &World) -> Result<()> {
    let nix = world.nix()?;
    for (service, slot) in [("adguard", 4), ("actual", 4)] {
        let module = format!("{}/nix/vms/{service}.nix", root().display());
        let is = of(
            &nix,
            &module,
            "{ inherit (c) warnings; inherit (c.networking) hostName; \
             inherit (builtins.head c.microvm.declaredRunner.settings.interfaces) id slot; \
             redirects = c.boot.kernel.sysctl.\"net.ipv4.conf.default.send_redirects\"; \
             bluetooth = builtins.elem \"bluetooth\" c.boot.blacklistedKernelModules; \
             root = c.services.openssh.settings.PermitRootLogin; coredump = c.systemd.coredump.enable; \
             failed = builtins.filter (a: !a.assertion) c.assertions; }",
        )?;
        let expected = json!({
            "warnings": [],
            "hostName": format!("{service}-vm"),
            "id": format!("vm-{service}"),
            "slot": slot,
            "redirects": 0,
            "bluetooth": true,
            "root": "no",
            "coredump": false,
            "failed": [],
        });
        ensure!(is == expected, "{is:#}");
    }
    Ok(())
}
