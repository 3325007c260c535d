//! Machines that can be cut off from each other: network namespaces, each with a cable to one switch. What
//! is cut is lost on its way and nobody is told, in one direction or in both. This process is at the switch,
//! too, and is never cut off.

use std::{collections::BTreeSet, net::Ipv4Addr, process};

use crate::disk::run;
use testing::machine::Machine;

/// A hardware address that nobody has: frames to it go nowhere.
const NOBODY: &str = "02:00:00:00:00:00";
/// The last number of this process's address, and of the first machine's.
const OURS: u8 = 1;
const FIRST: u8 = 10;

/// The machines; gone when dropped, once what runs there has ended.
pub(crate) struct Network {
    /// Tells it from others on this system.
    name: String,
    /// The third number of its addresses, which are of the network for measuring networks (RFC 2544).
    third: u8,
    count: u8,
    /// From where, and to where, nothing gets through.
    lost: BTreeSet<(usize, usize)>,
}

impl Network {
    /// So many machines; needs root, and a system with network namespaces.
    pub(crate) async fn make(count: u8) -> Result<Self, String> {
        let name = format!("z{:08x}", rand::random::<u32>());
        let network = Self { name, third: rand::random(), count, lost: BTreeSet::new() };
        network.begin().await?;
        Ok(network)
    }

    async fn begin(&self) -> Result<(), String> {
        let (name, switch, own) = (&self.name, self.switch(), self.own_ip());
        ip(&format!("netns add {switch}")).await?;
        ip(&format!("-n {switch} link add br0 type bridge")).await?;
        ip(&format!("-n {switch} link set br0 up")).await?;
        ip(&format!("link add {name} type veth peer name test netns {switch}")).await?;
        ip(&format!("-n {switch} link set test master br0 up")).await?;
        ip(&format!("addr add {own}/24 dev {name}")).await?;
        ip(&format!("link set {name} up")).await?;
        for number in 0..usize::from(self.count) {
            let (space, address) = (self.space(number), self.ip_of(number));
            ip(&format!("netns add {space}")).await?;
            ip(&format!("-n {space} link set lo up")).await?;
            ip(&format!("link add eth0 netns {space} type veth peer name m{number} netns {switch}")).await?;
            ip(&format!("-n {switch} link set m{number} master br0 up")).await?;
            ip(&format!("-n {space} addr add {address}/24 dev eth0")).await?;
            ip(&format!("-n {space} link set eth0 up")).await?;
        }
        Ok(())
    }

    /// This process's address.
    pub(crate) fn own_ip(&self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.third, OURS)
    }

    /// One of the machines.
    pub(crate) fn machine(&self, number: usize) -> Machine {
        let wrapper = vec!["nsenter".to_owned(), format!("--net=/run/netns/{}", self.space(number))];
        Machine { ip: self.ip_of(number), wrapper }
    }

    /// Loses from now on what the machine `from` sends to the machine `to`.
    pub(crate) async fn lose(&mut self, from: usize, to: usize) -> Result<(), String> {
        let (space, address) = (self.space(from), self.ip_of(to));
        ip(&format!("-n {space} neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent")).await?;
        self.lost.insert((from, to));
        Ok(())
    }

    /// Everything gets through again.
    pub(crate) async fn heal(&mut self) -> Result<(), String> {
        while let Some((from, to)) = self.lost.pop_first() {
            let (space, address) = (self.space(from), self.ip_of(to));
            ip(&format!("-n {space} neigh del {address} dev eth0")).await?;
        }
        Ok(())
    }

    fn ip_of(&self, number: usize) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.third, FIRST + number as u8)
    }

    fn switch(&self) -> String {
        format!("{}-switch", self.name)
    }

    fn space(&self, number: usize) -> String {
        format!("{}-{number}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let spaces = (0..usize::from(self.count)).map(|number| self.space(number));
        for space in spaces.chain([self.switch()]) {
            // One that was never made is none the less gone.
            drop(process::Command::new("ip").args(["netns", "del", &space]).output());
        }
    }
}

/// Runs `ip` with these words.
async fn ip(words: &str) -> Result<(), String> {
    run("ip", &words.split(' ').collect::<Vec<_>>()).await
}
