// SPDX-License-Identifier: Apache-2.0

package datapath

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// clsact has no links: a filter is known by its priority and handle, and
// replacing it under the same ones is atomic.

var filterParents = map[ebpf.AttachType]uint32{
	ebpf.AttachTCXIngress: netlink.HANDLE_MIN_INGRESS,
	ebpf.AttachTCXEgress:  netlink.HANDLE_MIN_EGRESS,
}

func clsactOf(ifindex uint32) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: int(ifindex), Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

// filterNames tell the roles of filters apart.
var filterNames = map[role]string{rolePod: "weir", roleUplink: "weir-uplink"}

func (a *attachments) filter(at attachPoint) *netlink.BpfFilter {
	return &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: int(at.target), Parent: filterParents[at.attach],
			Handle: filterHandle, Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Name: filterNames[at.role], DirectAction: true,
	}
}

func (a *attachments) attachFilters(ifindex uint32, role role) error {
	if has, ok := a.filters[ifindex]; ok && has == role {
		return nil
	}
	a.step(fmt.Sprintf("attach filters to %d", ifindex))
	if err := netlink.QdiscAdd(clsactOf(ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("add qdisc clsact (CONFIG_NET_SCH_INGRESS): %w", err)
	}
	if err := a.replaceFilters(ifindex, role); err != nil {
		return err
	}
	a.filters[ifindex] = role
	return nil
}

func (a *attachments) replaceFilters(ifindex uint32, role role) error {
	for attach := range attachedTo[role] {
		at := attachPoint{role, uint64(ifindex), attach}
		prog, err := a.programs.at(at)
		if err != nil {
			return err
		}
		filter := a.filter(at)
		filter.Fd = prog.FD()
		if err := netlink.FilterReplace(filter); err != nil {
			return fmt.Errorf("add filter (CONFIG_NET_CLS_BPF): %w", err)
		}
	}
	return nil
}

// takeOverFilters replaces the filters of an earlier loader on all devices.
func (a *attachments) takeOverFilters() error {
	devices, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for _, device := range devices {
		filters, err := netlink.FilterList(device, netlink.HANDLE_MIN_INGRESS)
		if err != nil {
			return fmt.Errorf("list filters of %s: %w", device.Attrs().Name, err)
		}
		for _, f := range filters {
			if role, ok := roleOfFilter(f); ok {
				if err := a.attachFilters(uint32(device.Attrs().Index), role); err != nil {
					return fmt.Errorf("replace filters of %s: %w", device.Attrs().Name, err)
				}
			}
		}
	}
	return nil
}

func roleOfFilter(f netlink.Filter) (role, bool) {
	b, ok := f.(*netlink.BpfFilter)
	if !ok || b.Handle != filterHandle {
		return "", false
	}
	for role, name := range filterNames {
		if b.Name == name {
			return role, true
		}
	}
	return "", false
}

func (a *attachments) removeFilters() error {
	var errs []error
	for ifindex := range a.filters {
		errs = append(errs, a.removeFilter(ifindex))
	}
	return errors.Join(errs...)
}

func (a *attachments) removeFilter(ifindex uint32) error {
	a.whole = false
	role := a.filters[ifindex]
	delete(a.filters, ifindex)
	var errs []error
	for attach := range attachedTo[role] {
		err := netlink.FilterDel(a.filter(attachPoint{role, uint64(ifindex), attach}))
		if err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("delete filter of ifindex %d: %w", ifindex, err))
		}
	}
	return errors.Join(errs...)
}
