//! The versions of etcd that these tests run on, and the paths of their programs.

use std::{path::PathBuf, process::Command, sync::LazyLock};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EtcdVersion {
    /// The newest version, from a dev-dependency.
    V3_7,
    /// Debian's version, the oldest that is still widely used.
    V3_4,
}

impl EtcdVersion {
    /// The program, checked to be of this version.
    pub(crate) fn program(self) -> PathBuf {
        match self {
            Self::V3_7 => etcd_bin_vendored::etcd_bin_path()
                .unwrap_or_else(|error| panic!("no etcd 3.7 for this machine: {error:?}"))
                .to_owned(),
            Self::V3_4 => {
                assert!(
                    DEBIAN_VERSION.starts_with("3.4."),
                    "these tests need etcd 3.4 on the PATH (apt-get install etcd-server), found: {}",
                    *DEBIAN_VERSION,
                );
                PathBuf::from("etcd")
            }
        }
    }
}

/// The version of the etcd on the PATH, or the reason why there is none.
static DEBIAN_VERSION: LazyLock<String> =
    LazyLock::new(|| match Command::new("etcd").arg("--version").output() {
        Ok(output) => {
            let output = String::from_utf8_lossy(&output.stdout).into_owned();
            let version = output.lines().find_map(|line| line.strip_prefix("etcd Version: "));
            version.unwrap_or("no version in its output").to_owned()
        }
        Err(error) => format!("none ({error})"),
    });
