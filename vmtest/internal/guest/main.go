// SPDX-License-Identifier: Apache-2.0

// Command guest is the init of a guest: the only program that a fresh machine
// has. It mounts what every program expects, then does what the host asks for
// over one virtio-serial port: takes files, runs commands, sends files back.
//
// It is also the guest's modprobe: what the kernel asks for, it asks the host
// for. There is no shell, no agent and no configuration.
//
// The invariant: it never exits. An init that ends is a kernel panic, so that
// whatever it cannot do it says on the console, and waits to be switched off.
//
// It uses nothing but the standard library and package wire, because it is
// compiled on the machine of whoever runs it, without a network.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if filepath.Base(os.Args[0]) == "modprobe" {
		os.Exit(askForModule(os.Args[1:]))
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "guest: this is the init of a virtual machine, and runs nowhere else")
		os.Exit(2)
	}
	if err := boot(); err != nil {
		giveUp(err)
	}
	port, err := openPort()
	if err != nil {
		giveUp(err)
	}
	server := newServer(port)
	if err := server.serveModprobe(); err != nil {
		giveUp(err)
	}
	giveUp(server.serve())
}

// giveUp tells the host, by way of the console that it reads, and ends the
// machine.
func giveUp(err error) {
	kernelLog(fmt.Sprintf("<0>weir-init: cannot go on: %v\n", err))
	time.Sleep(100 * time.Millisecond) // the console may be written by a thread of the kernel
	syscall.Sync()
	syscall.Reboot(syscall.LINUX_REBOOT_CMD_RESTART)
	select {}
}

// kernelLog writes one line into the kernel's log. It starts with a level,
// "<6>" for information.
func kernelLog(line string) error {
	f, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(line)
	return err
}
