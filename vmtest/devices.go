// SPDX-License-Identifier: Apache-2.0

package vmtest

import "fmt"

// Disk is a virtio block device: /dev/vda, /dev/vdb, … in their order. The
// module virtio_blk is loaded after a restore, so that a guest never sees what
// was in a disk when its snapshot was made.
type Disk struct {
	Path     string // a file or a block device
	Format   string // "raw" (also when empty) or "qcow2"
	ReadOnly bool
}

func (d Disk) arguments(i int, null bool) []string {
	readOnly := "off"
	if d.ReadOnly {
		readOnly = "on"
	}
	format := d.Format
	if format == "" {
		format = "raw"
	}
	drive := fmt.Sprintf("if=none,id=disk%d,format=%s,file=%s,read-only=%s,discard=unmap", i, format, escapeOption(d.Path), readOnly)
	if null {
		drive = fmt.Sprintf("if=none,id=disk%d,format=raw,file.driver=null-co,file.read-zeroes=on,read-only=%s", i, readOnly)
	}
	return []string{"-drive", drive, "-device", fmt.Sprintf("virtio-blk-pci,drive=disk%d", i)}
}

// Network is a virtio network device: eth0, eth1, … in their order. As with
// disks, its module is loaded after a restore.
type Network struct {
	// Backend is what QEMU calls a netdev, without its id: "user",
	// "tap,ifname=tap0,script=no,downscript=no", or
	// "socket,mcast=230.0.0.1:1234" for guests among themselves.
	Backend string
	// MAC must differ among guests that see each other.
	MAC string
}

func (n Network) arguments(i int, null bool) []string {
	if null {
		n.Backend = fmt.Sprintf("hubport,hubid=%d", i) // a network of nobody
	}
	device := fmt.Sprintf("virtio-net-pci,netdev=net%d,romfile=", i)
	if n.MAC != "" {
		device += ",mac=" + n.MAC
	}
	kind, rest := n.Backend, ""
	for j := range n.Backend {
		if n.Backend[j] == ',' {
			kind, rest = n.Backend[:j], n.Backend[j:]
			break
		}
	}
	return []string{"-netdev", fmt.Sprintf("%s,id=net%d%s", kind, i, rest), "-device", device}
}

// deviceModules are the drivers of what a machine has.
func (h hardware) deviceModules() []string {
	var names []string
	if len(h.disks) > 0 {
		names = append(names, "virtio_blk")
	}
	if len(h.networks) > 0 {
		names = append(names, "virtio_net")
	}
	return names
}
