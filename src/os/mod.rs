//! What is written into the installed system; boot loader; kexec.
