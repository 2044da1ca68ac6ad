//! What callgrind wrote, read: <https://valgrind.org/docs/manual/cl-format.html>, with names and positions in full.

use std::collections::{HashMap, HashSet};

/// How functions begin that are left out with all that they call, because what they cost does not hang on the request.
pub(crate) const LEFT_OUT: [&str; 6] = [
    // The C library of cryptography, in every version of it: on the processor, and nothing changes there.
    "aws_lc_",
    // On the clock: to wait, which timers end more often the slower the machine is.
    "tokio::runtime::scheduler::current_thread::Context::park",
    // To hand on and write what records were gathered in a few milliseconds.
    "gateway::edge::log::Batch::flush",
    "gateway::edge::log::BatchLog::keep_flushing",
    "gateway::edge::log::write_all",
    // The housekeeping of the first thread.
    "gateway::command::run::Gateway::wait::",
];

/// Instructions that were carried out for requests. `None` where the text is no profile.
#[must_use]
pub(crate) fn instructions(text: &str) -> Option<u64> {
    let (mut function, mut callee, mut is_call) = ("", "", false);
    let mut total = 0;
    // Who called whom, and all that was spent there, with what is called from there.
    let mut calls = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("fn=") {
            function = name;
        } else if let Some(name) = line.strip_prefix("cfn=") {
            callee = name;
        } else if line.starts_with("calls=") {
            is_call = true;
        } else if line.starts_with(|first: char| first.is_ascii_digit()) {
            // The line's position, then what was spent there, or in the call before this line.
            let spent: u64 = line.split(' ').nth(1)?.parse().ok()?;
            if std::mem::take(&mut is_call) {
                calls.push((function, callee, spent));
            } else {
                total += spent;
            }
        }
    }
    // It says the sum itself, so that nothing is misread.
    let said = text.lines().find_map(|line| line.strip_prefix("totals: "))?.trim().parse();
    if said != Ok(total) {
        return None;
    }
    let left_out = left_out(&calls);
    let entered = calls.iter().filter(|(from, to, _)| !left_out.contains(from) && left_out.contains(to));
    total.checked_sub(entered.map(|(_, _, spent)| spent).sum())
}

/// The functions that are left out: by name, or because no others call them.
fn left_out<'t>(calls: &[(&'t str, &'t str, u64)]) -> HashSet<&'t str> {
    let mut callers: HashMap<&str, HashSet<&str>> = HashMap::new();
    for (from, to, _) in calls {
        callers.entry(to).or_default().insert(from);
    }
    let names = calls.iter().flat_map(|(from, to, _)| [*from, *to]);
    let mut found: HashSet<&str> = names.filter(|name| LEFT_OUT.iter().any(|begin| name.starts_with(begin))).collect();
    loop {
        let more = callers.iter().filter(|(name, callers)| !found.contains(*name) && callers.is_subset(&found));
        let more: Vec<&str> = more.map(|(name, _)| *name).collect();
        if more.is_empty() {
            return found;
        }
        found.extend(more);
    }
}

#[cfg(test)]
mod tests {
    use super::instructions;

    const PROFILE: &str = "events: Ir\nfn=main\n0 10\ncfn=serve\ncalls=2 0\n0 1160\n\nfn=serve\n0 50\n1 30\n\
        cfn=aws_lc_0_39_0_SHA256\ncalls=2 0\n0 1070\ncfn=memcpy\ncalls=1 0\n2 10\n\n\
        fn=aws_lc_0_39_0_SHA256\n0 300\ncfn=own\ncalls=4 0\n0 670\ncfn=memcpy\ncalls=4 0\n0 100\n\n\
        fn=own\n0 70\ncfn=aws_lc_0_39_0_block\ncalls=4 0\n0 600\n\nfn=aws_lc_0_39_0_block\n0 600\n\n\
        fn=memcpy\n0 110\n\ntotals: 1170\n";

    #[test]
    fn what_is_left_out_goes_with_all_that_it_calls() {
        assert_eq!(instructions(PROFILE), Some(100));
    }

    #[test]
    fn what_does_not_add_up_is_no_profile() {
        assert_eq!(instructions(&PROFILE.replace("1170", "1171")), None);
        assert_eq!(instructions(""), None);
    }
}
