#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| occd::fuzz::known_hosts(content));
