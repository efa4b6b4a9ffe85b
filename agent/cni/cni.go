// SPDX-License-Identifier: Apache-2.0

// Package cni is the CNI plugin: what a container runtime runs to connect a pod
// and to take it away (https://www.cni.dev/docs/spec, version 1.1).
//
// It asks the node's agent for addresses, makes the pod's devices, and waits
// until the agent says that the datapath has the pod. It decides and remembers
// nothing itself. Its one invariant: the host's side of a pair stays down until
// it has the datapath's programs, so no pod sends a packet past policy.
package cni

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/containernetworking/cni/pkg/skel"
	"github.com/containernetworking/cni/pkg/types"
	current "github.com/containernetworking/cni/pkg/types/100"
	"github.com/containernetworking/cni/pkg/version"

	"github.com/weirnet/weir/agent/api"
	"github.com/weirnet/weir/agent/endpoints"
)

// Network is the name of the network, and Type that of the plugin's binary.
const (
	Network = "weir"
	Type    = "weir"
	Version = "1.1.0"
)

// Config is the network's configuration, as a conflist has it.
type Config struct {
	types.PluginConf
	Socket   string `json:"socket,omitempty"`   // of the agent
	StateDir string `json:"stateDir,omitempty"` // where deletions wait for the agent
}

// patience is how long the agent may take. The kubelet asks again, and the
// runtime gives up after some minutes.
const (
	patience      = 60 * time.Second
	shortPatience = 5 * time.Second
)

// codeUnavailable is the specification's, of STATUS: the plugin cannot ADD.
const codeUnavailable = 50

// Main does what CNI_COMMAND says. An error is told on stdout, and ends the
// process.
func Main(build string) {
	skel.PluginMainFuncs(skel.CNIFuncs{Add: add, Del: del, Check: check, GC: gc, Status: status},
		version.PluginSupports("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"), "weir "+build+": the CNI plugin of Weir")
}

func readConfig(data []byte) (*Config, error) {
	conf := &Config{Socket: api.DefaultSocket, StateDir: api.DefaultStateDir}
	if err := json.Unmarshal(data, conf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read the network's configuration: %v", err), "")
	}
	if err := version.ParsePrevResult(&conf.PluginConf); err != nil {
		return nil, types.NewError(types.ErrDecodingFailure, fmt.Sprintf("read prevResult: %v", err), "")
	}
	if conf.Socket == "" || conf.StateDir == "" {
		return nil, types.NewError(types.ErrInvalidNetworkConfig, "read the network's configuration: socket or stateDir is empty: leave it out to have the default", "")
	}
	return conf, nil
}

// podArgs are what the runtime tells of the pod, in CNI_ARGS.
type podArgs struct {
	types.CommonArgs
	K8S_POD_NAMESPACE, K8S_POD_NAME, K8S_POD_UID types.UnmarshallableString // the names are those of CNI_ARGS
}

func request(args *skel.CmdArgs) (api.EndpointRequest, error) {
	var pod podArgs
	pod.IgnoreUnknown = true
	if err := types.LoadArgs(args.Args, &pod); err != nil {
		return api.EndpointRequest{}, types.NewError(types.ErrInvalidEnvironmentVariables, fmt.Sprintf("read CNI_ARGS: %v", err), "")
	}
	if pod.K8S_POD_NAME == "" || pod.K8S_POD_NAMESPACE == "" {
		return api.EndpointRequest{}, types.NewError(types.ErrInvalidEnvironmentVariables, "CNI_ARGS has no K8S_POD_NAME and K8S_POD_NAMESPACE: weir connects Kubernetes' pods only", "")
	}
	return api.EndpointRequest{
		ContainerID: args.ContainerID, IfName: args.IfName, Netns: args.Netns,
		PodNamespace: string(pod.K8S_POD_NAMESPACE), PodName: string(pod.K8S_POD_NAME), PodUID: string(pod.K8S_POD_UID),
	}, nil
}

func attachment(args *skel.CmdArgs) api.Attachment {
	return api.Attachment{ContainerID: args.ContainerID, IfName: args.IfName}
}

func endpointPath(prefix string, at api.Attachment) string {
	return prefix + at.ContainerID + "/" + at.IfName
}

// add connects a pod. Doing so again gives the same.
func add(args *skel.CmdArgs) error {
	conf, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	req, err := request(args)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	agent := api.NewClient(conf.Socket)
	var e api.Endpoint
	if err := agent.Post(ctx, api.PathEndpoints, req, &e); err != nil {
		return toRuntime("give Pod "+req.PodNamespace+"/"+req.PodName+" an address", err)
	}
	if err := connect(ctx, agent, &e); err != nil {
		// What was made goes, whatever else fails: the runtime may never ask
		// for the deletion of what it was not given.
		undo, cancel := context.WithTimeout(context.Background(), shortPatience)
		defer cancel()
		if left := removeEndpoint(undo, agent, conf, attachment(args)); left != nil {
			err = fmt.Errorf("%w; and what was made stays: %w", err, left)
		}
		return toRuntime("connect Pod "+req.PodNamespace+"/"+req.PodName, err)
	}
	return types.PrintResult(result(&e), conf.CNIVersion)
}

func connect(ctx context.Context, agent *api.Client, e *api.Endpoint) error {
	ifindex, err := Wire(e)
	if err != nil {
		return err
	}
	path := endpointPath(api.PathReady, api.Attachment{ContainerID: e.ContainerID, IfName: e.IfName})
	return agent.Post(ctx, path, api.Wired{Ifindex: ifindex}, e)
}

// toRuntime makes an error one of the specification's.
func toRuntime(doing string, err error) error {
	code := uint(types.ErrInternal)
	refusal, refused := errors.AsType[*api.Error](err)
	switch {
	case errors.Is(err, api.ErrAway), refused && refusal.Again, errors.Is(err, context.DeadlineExceeded):
		code = types.ErrTryAgainLater
	}
	return types.NewError(code, fmt.Sprintf("%s: %v", doing, err), "")
}

func result(e *api.Endpoint) *current.Result {
	const hostSide, podSide = 0, 1
	r := &current.Result{
		CNIVersion: current.ImplementedSpecVersion,
		Interfaces: []*current.Interface{
			hostSide: {Name: e.HostDevice, Mac: e.HostMAC},
			podSide:  {Name: e.IfName, Mac: e.PodMAC, Sandbox: e.Netns, Mtu: e.MTU},
		},
	}
	for _, addr := range e.Addresses {
		r.IPs = append(r.IPs, &current.IPConfig{Interface: current.Int(podSide), Address: *hostNet(addr), Gateway: gatewayOf(e, addr).AsSlice()})
		r.Routes = append(r.Routes, &types.Route{Dst: everything(addr), GW: gatewayOf(e, addr).AsSlice()})
	}
	return r
}

func gatewayOf(e *api.Endpoint, addr netip.Addr) netip.Addr {
	for _, gateway := range e.Gateways {
		if gateway.Is4() == addr.Is4() {
			return gateway
		}
	}
	return netip.Addr{}
}

func everything(addr netip.Addr) net.IPNet {
	if addr.Is4() {
		return net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
	}
	return net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
}

// del takes a pod away. Nothing being there is no error, and neither is an
// agent that is not: then the deletion waits for it.
func del(args *skel.CmdArgs) error {
	conf, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	return removeEndpoint(ctx, api.NewClient(conf.Socket), conf, attachment(args))
}

func removeEndpoint(ctx context.Context, agent *api.Client, conf *Config, at api.Attachment) error {
	if err := endpoints.Check(at); err != nil {
		return types.NewError(types.ErrInvalidEnvironmentVariables, err.Error(), "")
	}
	err := agent.Delete(ctx, endpointPath(api.PathEndpoint, at))
	if err == nil {
		return nil
	}
	// The device is known by its name; the record and the addresses are the
	// agent's to remove, when it is back.
	if err := errors.Join(RemoveDevice(endpoints.RecordedDevice(conf.StateDir, at)), leaveDeletion(conf.StateDir, at)); err != nil {
		return types.NewError(types.ErrInternal, fmt.Sprintf("take %s away: %v", at.ContainerID, err), "")
	}
	return nil
}

// leaveDeletion tells an agent that starts later, or has been too busy.
func leaveDeletion(stateDir string, at api.Attachment) error {
	data, err := json.Marshal(at)
	if err != nil {
		return fmt.Errorf("encode a deletion: %w", err)
	}
	dir := filepath.Join(stateDir, "deletions")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make directory of deletions: %w", err)
	}
	path := filepath.Join(dir, at.ContainerID+"-"+at.IfName)
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return fmt.Errorf("leave a deletion for the agent: %w", err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		return fmt.Errorf("leave a deletion for the agent: %w", err)
	}
	return nil
}

// check says what a pod that was connected does not have any more.
func check(args *skel.CmdArgs) error {
	conf, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortPatience)
	defer cancel()
	var e api.Endpoint
	if err := api.NewClient(conf.Socket).Get(ctx, endpointPath(api.PathEndpoint, attachment(args)), &e); err != nil {
		return toRuntime("check "+args.ContainerID, err)
	}
	if !e.Ready {
		return types.NewError(types.ErrTryAgainLater, fmt.Sprintf("check Pod %s/%s: the datapath does not have it: look at 'weir status'", e.PodNamespace, e.PodName), "")
	}
	e.Netns = args.Netns
	if err := inspect(&e); err != nil {
		return types.NewError(types.ErrInternal, fmt.Sprintf("check Pod %s/%s: %v", e.PodNamespace, e.PodName, err), "")
	}
	return nil
}

// validAttachments is the specification's name of the list that GC needs.
const validAttachments = "cni.dev/valid-attachments"

// gc removes what the runtime does not know of.
func gc(args *skel.CmdArgs) error {
	conf, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	// Nobody's list would take all pods away; an empty one does.
	var given map[string]json.RawMessage
	if err := json.Unmarshal(args.StdinData, &given); err != nil || given[validAttachments] == nil {
		return types.NewError(types.ErrInvalidNetworkConfig, "collect garbage: the configuration has no "+validAttachments+": what is to stay is not known", "")
	}
	req := api.GCRequest{Valid: []api.Attachment{}}
	for _, a := range conf.ValidAttachments {
		req.Valid = append(req.Valid, api.Attachment{ContainerID: a.ContainerID, IfName: a.IfName})
	}
	if err := api.NewClient(conf.Socket).Post(ctx, api.PathGC, req, nil); err != nil {
		return toRuntime("collect garbage", err)
	}
	return nil
}

// status says whether pods can be connected.
func status(args *skel.CmdArgs) error {
	conf, err := readConfig(args.StdinData)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), shortPatience)
	defer cancel()
	if err := api.NewClient(conf.Socket).Get(ctx, api.PathHealthy, nil); err != nil {
		return types.NewError(codeUnavailable, fmt.Sprintf("pods cannot be connected: %v", err), "")
	}
	return nil
}
