//! `stalemate audit --gdb`: a run as a debugger sees it, by the remote protocol (GDB manual, appendix E),
//! and by GDB itself where there is one.

use super::command_line::Files;
use super::kernel::kernel;
use super::layout::data;
use super::scripts::{LINES, Lacks, tasks};
use crate::common::command;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};

/// An audit that waits for a debugger, and its port.
struct Waiting {
    program: Child,
    port: u16,
    /// What it has said before.
    said: String,
    _files: Files,
}

impl Waiting {
    fn new(name: &str, lacks: Lacks) -> Self {
        let files = Files::new(name);
        let file = files.put("kernel", &kernel(&tasks(lacks)));
        let initrd = files.put("initrd", &[]);
        let arguments = ["audit", "--kernel", &file, "--initrd", &initrd, "--ram", "32"];
        let mut program =
            command(&[&arguments[..], &["--cmdline-only", "", "--gdb", "0"]].concat());
        let mut program =
            program.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program");
        let mut lines = BufReader::new(program.stderr.take().expect("a pipe")).lines();
        let mut said = String::new();
        let port = loop {
            let line = lines.next().expect("it waits for GDB").expect("text");
            if let Some(port) = line.strip_prefix("waiting for GDB: target remote :") {
                break port.parse().expect("a port");
            }
            said += &(line + "\n");
        };
        Self { program, port, said, _files: files }
    }

    fn code(mut self) -> Option<i32> {
        self.program.wait().expect("it ends").code()
    }
}

/// A debugger.
struct Client(TcpStream);

impl Client {
    fn new(waiting: &Waiting) -> Self {
        Self(TcpStream::connect(("127.0.0.1", waiting.port)).expect("a connection"))
    }

    fn send(&mut self, packet: &str) {
        let sum = packet.bytes().fold(0u8, u8::wrapping_add);
        self.0.write_all(format!("${packet}#{sum:02x}").as_bytes()).expect("sent");
    }

    fn byte(&mut self) -> u8 {
        let mut byte = [0];
        self.0.read_exact(&mut byte).expect("an answer");
        byte[0]
    }

    /// The next packet, acknowledged. Bytes that stand for many (`*`) are spelt out.
    fn answer(&mut self) -> String {
        while self.byte() != b'$' {}
        let mut packet: Vec<u8> = Vec::new();
        loop {
            match self.byte() {
                b'#' => break,
                b'*' => {
                    let count = usize::from(self.byte() - 29);
                    let last = *packet.last().expect("a byte before");
                    packet.extend(std::iter::repeat_n(last, count));
                }
                byte => packet.push(byte),
            }
        }
        let (_, _) = (self.byte(), self.byte());
        self.0.write_all(b"+").expect("sent");
        String::from_utf8(packet).expect("text")
    }

    fn ask(&mut self, packet: &str) -> String {
        self.send(packet);
        self.answer()
    }

    fn monitor(&mut self, command: &str) -> String {
        let hex: String = command.bytes().map(|byte| format!("{byte:02x}")).collect();
        self.send(&format!("qRcmd,{hex}"));
        let mut said = String::new();
        loop {
            match self.answer() {
                end if end == "OK" => return said,
                part => said += &text(part.strip_prefix('O').expect("output")),
            }
        }
    }

    /// RAX to R15 as GDB orders them, and RIP.
    fn registers(&mut self) -> Vec<u64> {
        let all = bytes(&self.ask("g")[..17 * 16]);
        all.chunks(8).map(|word| u64::from_le_bytes(word.try_into().expect("eight"))).collect()
    }

    fn rip(&mut self) -> u64 {
        self.registers()[16]
    }

    /// Instructions that have completed, and traps since.
    fn position(&mut self) -> String {
        let said = self.monitor("where");
        let place = said.strip_prefix("at ").and_then(|rest| rest.split_once(':'));
        place.expect("a place").0.to_owned()
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = |pair: &[u8]| std::str::from_utf8(pair).expect("digits").to_owned();
    let pairs = hex.as_bytes().chunks(2).map(digits);
    pairs.map(|pair| u8::from_str_radix(&pair, 16).expect("a byte")).collect()
}

fn text(hex: &str) -> String {
    String::from_utf8(bytes(hex)).expect("text")
}

#[test]
fn a_run_stops_at_its_finding_and_goes_both_ways() {
    let waiting = Waiting::new("gdb", Lacks::Flush);
    assert_eq!(waiting.said, LINES.concat(), "the run of the report is over before");
    let mut client = Client::new(&waiting);
    assert!(client.ask("?").starts_with(['S', 'T']));
    assert!(client.ask("qSupported:xmlRegisters=i386").contains("ReverseStep+"));
    let here = client.monitor("where");
    assert!(here.contains("finding 1: stale-user-entry:write-protect:"), "{here}");
    let findings = client.monitor("findings");
    assert!(
        findings.lines().count() == 2 && findings.contains("2: stale-other-asid"),
        "{findings}"
    );
    // Back by three instructions, and on again by three: the same places the other way round.
    let mut places = vec![(client.position(), client.registers())];
    for _ in 0..3 {
        assert_eq!(client.ask("bs"), "S05");
        places.push((client.position(), client.registers()));
    }
    for place in places.iter().rev().skip(1) {
        assert_eq!(client.ask("s"), "S05");
        assert_eq!((client.position(), client.registers()), *place);
    }
    assert!(client.monitor("where").contains("finding 1:"));
    // The next one, and back to the first. A finding is SIGABRT.
    assert_eq!(client.ask("c"), "S06");
    assert!(client.monitor("where").contains("finding 2: stale-other-asid"), "finding 2");
    assert_eq!(client.ask("bc"), "S06");
    assert_eq!(client.position(), places[0].0);
    // Before it there is nothing, and after the last is the end.
    assert!(client.ask("bc").contains("replaylog:begin"));
    assert_eq!(client.position(), "0+0");
    assert!(client.ask("bs").contains("replaylog:begin"));
    for stopped in ["S06", "S06", "replaylog:end", "replaylog:end"] {
        let answer = client.ask("c");
        assert!(answer.contains(stopped), "{answer}, not {stopped}");
    }
    let end = client.position();
    assert_eq!(client.ask("bs"), "S05");
    assert_ne!(client.position(), end);
    client.send("D");
    assert_eq!(waiting.code(), Some(1), "the exit code is the audit's");
}

/// `cr3-pairing` speaks where CR3 is loaded, and `pcid-reuse` at another load of the same run.
#[test]
fn a_run_stops_once_at_each_of_several_findings() {
    let waiting = Waiting::new("gdb-several", Lacks::Pairing);
    let mut client = Client::new(&waiting);
    client.monitor("at 0");
    let mut forward = Vec::new();
    while client.ask("c") == "S06" {
        forward.push(client.monitor("where"));
    }
    // The load with the wrong root is two rules' to speak of.
    let numbers = forward.iter().map(|place| place.matches("finding ").count());
    assert_eq!(numbers.collect::<Vec<_>>(), [2, 1], "{forward:?}");
    for place in forward.iter().rev() {
        assert_eq!(client.ask("bc"), "S06");
        assert_eq!(client.monitor("where"), *place);
    }
    assert!(client.ask("bc").contains("replaylog:begin"));
    drop(client);
    assert_eq!(waiting.code(), Some(1));
}

#[test]
fn breakpoints_stop_a_run_wherever_they_are_and_change_nothing() {
    let waiting = Waiting::new("gdb-breakpoints", Lacks::UserHalf);
    let mut client = Client::new(&waiting);
    client.monitor("at 0");
    // Some instructions of the kernel's, in the order of the run: in the middle of what has been decoded.
    let mut path = Vec::new();
    for _ in 0..40 {
        path.push((client.position(), client.rip()));
        assert_eq!(client.ask("s"), "S05");
    }
    let once = |rip: u64| path.iter().filter(|(_, at)| *at == rip).count() == 1;
    let (place, rip) = path.iter().skip(20).find(|(_, rip)| once(*rip)).expect("one").clone();
    let before = client.ask(&format!("m{rip:x},4"));
    assert_eq!(client.ask(&format!("Z0,{rip:x},1")), "OK");
    client.monitor("at 0");
    assert!(client.ask("c").contains("swbreak"));
    assert_eq!((client.position(), client.rip()), (place.clone(), rip));
    assert_eq!(client.ask(&format!("m{rip:x},4")), before, "nothing is written to memory");
    assert_eq!(client.ask("s"), "S05");
    assert!(client.ask("bc").contains("swbreak"), "from after it back to it");
    assert_eq!(client.position(), place);
    assert_eq!(client.ask(&format!("z0,{rip:x},1")), "OK");
    client.monitor("at 0");
    assert_eq!(client.ask("c"), "S06", "without it the run goes on to the finding");
    // Nothing can be written, and what is not mapped cannot be read.
    for packet in [format!("M{rip:x},1:90"), "m7fff00000000,8".to_owned()] {
        assert!(client.ask(&packet).starts_with('E'), "{packet}");
    }
    // What is stale is what the processor uses, and the tables say otherwise.
    client.monitor("finding 1");
    let translations = client.monitor(&format!("tlb {:#x}", data(0)));
    let (cached, tables) = translations.split_once("tables: ").expect("both");
    assert!(cached.starts_with("cached: 0x"), "{translations}");
    assert_eq!(tables, "nothing\n", "{translations}");
    for (wrong, sentence) in [
        ("at once", "a number of instructions"),
        ("finding 9", "there are 1 findings"),
        ("tlb here", "an address"),
        ("jump", "there is no command `jump`"),
    ] {
        let said = client.monitor(wrong);
        assert!(said.contains(sentence), "{said}");
    }
    // Whoever leaves without a word has left.
    drop(client);
    assert_eq!(waiting.code(), Some(1));
}

#[test]
fn gdb_itself_goes_through_a_run() {
    let found = Command::new("gdb").arg("--version").output();
    if !found.is_ok_and(|output| output.status.success()) {
        return crate::common::say("SKIP: no gdb on the path");
    }
    let waiting = Waiting::new("gdb-itself", Lacks::Flush);
    let mut gdb = Command::new("gdb");
    gdb.args(["--batch", "--nx", "-ex", "set architecture i386:x86-64"]);
    let remote = format!("target remote :{}", waiting.port);
    let commands = [
        &remote,
        "monitor where",
        "print /x $cr3",
        "print $cpl",
        "x/2i $pc",
        "reverse-stepi",
        "stepi",
        "monitor where",
        "reverse-continue",
        "monitor where",
        "continue",
        "monitor where",
        "detach",
    ];
    for one in commands {
        gdb.args(["-ex", one]);
    }
    let output = gdb.output().expect("gdb runs");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let all = format!("{out}{}", String::from_utf8_lossy(&output.stderr));
    let findings = all.matches("finding 1: stale-user-entry:write-protect:").count();
    assert_eq!(findings, 3, "{all}");
    for said in ["$1 = 0x", "=> 0x", "No more reverse-execution history", "at 0+0: ", "SIGABRT"] {
        assert!(all.contains(said), "no `{said}` in {all}");
    }
    assert_eq!(waiting.code(), Some(1));
}
