#![no_main]

libfuzzer_sys::fuzz_target!(|content: &[u8]| occd::fuzz::ssh_config(content));
