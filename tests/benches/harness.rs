//! Rounds, spreads and processes: how everything here is measured.
//!
//! The machine is shared, so a figure alone says little. Contenders take turns (A B A B …), a ratio is formed inside a
//! round and only then summed up, and what is counted is CPU time of the process under test, not time on the wall.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child as Process, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// The median of a few measurements with the extremes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Sums up measurements.
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 };
        Self { median, min: values[0], max: values[values.len() - 1] }
    }

    /// Sums up a measurement that is exact: a count.
    pub(crate) fn exact(value: f64) -> Self {
        Self { median: value, min: value, max: value }
    }

    /// Sums up `a` over `b`, round by round.
    pub(crate) fn ratio(a: &[f64], b: &[f64]) -> Self {
        Self::of(a.iter().zip(b).map(|(a, b)| a / b).collect())
    }

    /// Sums up `a` less `b`, round by round.
    pub(crate) fn difference(a: &[f64], b: &[f64]) -> Self {
        Self::of(a.iter().zip(b).map(|(a, b)| a - b).collect())
    }
}

/// Lets the contenders take turns for `rounds` rounds, after one round that is thrown away. Who begins changes from
/// round to round. The answer has one list per contender.
pub(crate) fn rounds(rounds: usize, contenders: &mut [&mut dyn FnMut() -> f64]) -> Vec<Vec<f64>> {
    let count = contenders.len();
    let mut measured = vec![Vec::with_capacity(rounds); count];
    for round in 0..=rounds {
        for turn in 0..count {
            let who = (round + turn) % count;
            let value = contenders[who]();
            if round > 0 {
                measured[who].push(value);
            }
        }
    }
    measured
}

/// Returns the CPU time this process has used so far, all threads, user and kernel.
pub(crate) fn process_cpu() -> Duration {
    cpu(ClockId::ProcessCPUTime)
}

/// Returns the CPU time this thread has used so far.
pub(crate) fn thread_cpu() -> Duration {
    cpu(ClockId::ThreadCPUTime)
}

fn cpu(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The resident memory of this process, now and at its highest, in bytes. `None` where the system does not tell.
pub(crate) fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1_024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

/// Another process of this program, spoken to line by line. It ends when its standard input does.
pub(crate) struct Child {
    process: Process,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Child {
    /// Starts this program as `--child name args…`.
    pub(crate) fn start(name: &str, args: &[&str]) -> Self {
        let program = std::env::current_exe().expect("this program has a path");
        let mut command = Command::new(program);
        command.arg("--child").arg(name).args(args);
        Self::spawn(command)
    }

    /// Starts a command with its standard input and output in our hands.
    pub(crate) fn spawn(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("this program can be started again");
        let input = process.stdin.take();
        let output = BufReader::new(process.stdout.take().expect("its output is piped"));
        Self { process, input, output }
    }

    /// Reads the child's next line.
    pub(crate) fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("the child's output is text");
        assert!(!line.is_empty(), "a measuring process ended early; its own message stands above");
        line.trim_end().to_owned()
    }

    /// Reads the child's next line as JSON.
    pub(crate) fn json(&mut self) -> serde_json::Value {
        let line = self.line();
        serde_json::from_str(&line).unwrap_or_else(|_| panic!("the child printed {line:?} instead of JSON"))
    }

    /// Sends the child a line.
    pub(crate) fn tell(&mut self, line: &str) {
        let input = self.input.as_mut().expect("the child was not ended");
        writeln!(input, "{line}").expect("the child reads");
    }

    /// Sends the child a line and reads its answer.
    pub(crate) fn ask(&mut self, line: &str) -> serde_json::Value {
        self.tell(line);
        self.json()
    }

    /// Kills the child with SIGKILL; returns how many lines it had printed that were not read yet.
    pub(crate) fn kill(mut self) -> usize {
        self.process.kill().expect("it runs");
        let _ = self.process.wait();
        drop(self.input.take());
        self.output.by_ref().lines().map_while(Result::ok).count()
    }

    /// Ends the child and waits until it is gone.
    pub(crate) fn end(mut self) {
        drop(self.input.take());
        let _ = self.process.wait();
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.input.is_some() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

/// Counts the instructions, user and kernel, of one piece of work that `--child name args… count` does `count` times,
/// under `perf stat`. It runs twice and the difference is divided: starting up does not count. Instructions repeat
/// within 1 % however busy the machine is. `None` where there is no `perf` or no hardware counter.
pub(crate) fn instructions_each(name: &str, args: &[&str], count: usize) -> Option<f64> {
    let run = |count: usize| -> Option<f64> {
        let output = Command::new("perf")
            .args(["stat", "-x", ";", "-e", "instructions:u,instructions:k", "--"])
            .arg(std::env::current_exe().ok()?)
            .args(["--child", name])
            .args(args)
            .arg(count.to_string())
            .stdin(Stdio::null())
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let text = String::from_utf8(output.stderr).ok()?;
        let counts: Vec<f64> = text
            .lines()
            .filter(|line| line.contains("instructions:"))
            .map(|line| line.split(';').next().and_then(|count| count.parse().ok()))
            .collect::<Option<_>>()?;
        (counts.len() == 2).then(|| counts.iter().sum())
    };
    let few = count / 10;
    Some((run(count)? - run(few)?) / (count - few) as f64)
}

/// The child's side: answers each line of standard input until it ends.
pub(crate) fn serve_lines(mut answer: impl FnMut(&str) -> serde_json::Value) {
    for line in std::io::stdin().lines() {
        println!("{}", answer(&line.expect("the parent sends text")));
    }
}

/// Returns a number of a JSON answer.
pub(crate) fn number(value: &serde_json::Value, name: &str) -> f64 {
    value.get(name).and_then(serde_json::Value::as_f64).unwrap_or_else(|| panic!("{name} is missing in {value}"))
}

/// Makes a runtime on this thread alone.
pub(crate) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime can be made")
}
