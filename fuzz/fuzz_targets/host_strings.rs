#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| occd::fuzz::host_strings(text));
