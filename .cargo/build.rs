//! How the daemon is linked: it shall be small in memory, beside an app on a machine of 512 MB.
//!
//! `-z pack-relative-relocs` (RELR) writes down in kilobytes what takes 6 MB otherwise, all of it read at each start and
//! resident from then on (docs/performance.md, "Memory"). It wants glibc 2.36 (Debian 12) where the program runs; for other
//! systems, and with a linker that somebody chose, it is linked as usual.

use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=.cargo/build.rs");
    println!("cargo:rerun-if-env-changed=CARGO_ENCODED_RUSTFLAGS");
    let variable = |name| std::env::var(name).unwrap_or_default();
    let linkers_own = variable("CARGO_ENCODED_RUSTFLAGS").contains("link") || !variable("RUSTC_LINKER").is_empty();
    let target = variable("TARGET");
    // Linked where it will run, or on an older system, whose programs run on newer ones.
    let modern = target == variable("HOST") && glibc().is_some_and(|version| version >= (2, 36));
    if target == "x86_64-unknown-linux-gnu" && modern && !linkers_own {
        println!("cargo:rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
}

/// The version of this system's C library.
fn glibc() -> Option<(u32, u32)> {
    let told = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?;
    let told = String::from_utf8(told.stdout).ok()?;
    let (major, minor) = told.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
