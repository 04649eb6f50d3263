//! Docker through occd: the docker program at a host's socket, news of a container, many hosts at once.

use std::time::{Duration, Instant};

use occ_proto::container::SANDBOX_CONTAINER;
use testkit::DockerRig;
use testkit::daemon::Target;
use testkit::proc::{Process, Signal};
use testkit::wait::blocking;

use super::{Bench, ONE_WAY, in_turns, median, ms, time};

/// Hosts in one table.
const HOSTS: usize = 100;
/// Containers that die, one after the other.
const DEATHS: usize = 15;
/// Guards against hanging.
const GUARD: Duration = Duration::from_secs(30);

impl Bench {
    pub(super) fn docker(&mut self) {
        if !DockerRig::require() {
            return;
        }
        let docker = DockerRig::start();
        docker.open_to_everyone();
        docker.import_busybox("busybox:1");
        let near = Target::from(&self.near);
        self.rig.add_host("docker-near", near.clone());
        self.rig.add_host("docker-far", near.through(&self.far));
        let socket = docker.socket().display().to_string();
        self.rig.write_config_toml(&format!(
            "[hosts.docker-near]\ndocker_socket = {socket:?}\n[hosts.docker-far]\ndocker_socket = {socket:?}\n"
        ));
        for host in ["docker-near", "docker-far"] {
            self.rig.occ_ok(&["connect", "--host", host]);
        }
        self.sockets(&docker);
        self.deaths(&docker);
        self.table();
        self.rig.write_config_toml("");
    }

    fn sockets(&mut self, docker: &DockerRig) {
        for (host, rounds) in [("docker-near", 40), ("docker-far", 30)] {
            let path = self.rig.occ_ok(&["docker-socket", "-q", "--host", host]);
            let mut over = docker.docker(&["ps"]);
            over.env("DOCKER_HOST", format!("unix://{}", path.trim()));
            // Streams are opened ahead once the engine has answered.
            time(&mut over);
            let times = in_turns(rounds, &mut [over, docker.docker(&["ps"])]);
            let place = host.trim_start_matches("docker-");
            self.title(&format!("`docker ps` over a host's socket, {place}"));
            let goal = if place == "near" { "≤ 1.3" } else { "" };
            self.rows(
                ("`docker ps`, `DOCKER_HOST` of `occ docker-socket`", times[0]),
                &[("`docker ps`, local engine", times[1], goal)],
            );
            if place == "far" {
                let more = times[0].saturating_sub(times[1]);
                let trips = more.as_secs_f64() / (ONE_WAY * 2).as_secs_f64();
                self.say(&format!(
                    "| more than local, in round trips of 50 ms | {trips:.2} | | ≤ 1.3 |"
                ));
            }
        }
    }

    /// Measures from the death of a container's first program until the daemon's memory has it.
    fn deaths(&mut self, docker: &DockerRig) {
        self.title("A container that dies, until the status shows it");
        for (host, goal) in [("docker-near", "≤ 100 ms"), ("docker-far", "≤ 150 ms")] {
            let mut times: Vec<Duration> = (0..DEATHS).map(|_| self.death(docker, host)).collect();
            let place = host.trim_start_matches("docker-");
            self.say(&format!("| {place} host | {} | | {goal} |", ms(median(&mut times))));
        }
    }

    fn death(&self, docker: &DockerRig, host: &str) -> Duration {
        let state = || {
            let path = format!("/v1/hosts/{host}");
            let answer = self.rig.http("GET", &path, &[], None).json();
            answer["sandbox"]["state"].as_str().map(str::to_owned)
        };
        docker.run(SANDBOX_CONTAINER, &["busybox:1", "sleep", "1000"]);
        let is = |wanted: &str| (state().as_deref() == Some(wanted)).then_some(());
        blocking::wait_for("the container to be seen", GUARD, || is("running"));
        let pid = docker.docker_ok(&["inspect", "--format", "{{.State.Pid}}", SANDBOX_CONTAINER]);
        let process = Process::find(pid.parse().unwrap()).unwrap();
        let begun = Instant::now();
        process.signal(Signal::KILL);
        while is("exited").is_none() {
            assert!(begun.elapsed() < GUARD, "the end is not seen");
        }
        let took = begun.elapsed();
        docker.docker_ok(&["rm", SANDBOX_CONTAINER]);
        blocking::wait_for("it to be gone", GUARD, || state().is_none().then_some(()));
        took
    }

    fn table(&mut self) {
        let names: Vec<String> = (0..HOSTS).map(|n| format!("table-{n}")).collect();
        self.same_as("near", &names);
        for name in &names {
            self.rig.occ_ok(&["connect", "--host", name]);
        }
        let mut pair = [self.occ(&["status", "--all"]), self.occ(&["status", "--host", "near"])];
        let times = in_turns(60, &mut pair);
        self.title(&format!("The state of {HOSTS} hosts"));
        self.rows(("`occ status --all`", times[0]), &[("`occ status --host h`", times[1], "≤ 3")]);
        self.forget(&names);
    }
}
