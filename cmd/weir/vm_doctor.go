// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/spf13/cobra"

	"github.com/weirnet/weir/vmtest"
)

// vmDiagnosis is one line of what the doctor finds.
type vmDiagnosis struct {
	What   string `json:"what"`
	OK     bool   `json:"ok"`
	Found  string `json:"found"`
	Remedy string `json:"remedy,omitempty"`
}

func vmDoctorCommand() *cobra.Command {
	var output vmOutput
	var kernel string
	cmd := &cobra.Command{
		Use:     "doctor",
		Short:   "Say how guests run here, and what would make them faster",
		Example: "  weir vm doctor\n  weir vm doctor --kernel 6.1 -o json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := vmDiagnose(cmd, kernel)
			err := vmPrint(output, cmd.OutOrStdout(), "WHAT\tFOUND\tREMEDY", findings, func(d vmDiagnosis) string {
				return fmt.Sprintf("%s\t%s\t%s", d.What, d.Found, d.Remedy)
			})
			for _, d := range findings {
				if err == nil && !d.OK {
					err = &exitError{code: exitFailed}
				}
			}
			return err
		},
	}
	cmd.Flags().StringVarP(&kernel, "kernel", "k", defaultKernel, "kernel to try with")
	output.register(cmd)
	return cmd
}

func vmDiagnose(cmd *cobra.Command, name string) []vmDiagnosis {
	ctx := cmd.Context()
	findings := []vmDiagnosis{vmDiagnoseQEMU(), vmDiagnoseGo(), vmDiagnoseCache()}
	findings = append(findings, vmDiagnosis{What: "processors", OK: true, Found: fmt.Sprint(runtime.NumCPU())})
	kernel, err := vmtest.Find(ctx, name, vmtest.FindOptions{Progress: newVMProgress()})
	if err != nil {
		return append(findings, vmDiagnosis{What: "kernel " + name, Found: err.Error()})
	}
	findings = append(findings, vmDiagnosis{What: "kernel " + name, OK: true, Found: kernel.Release})
	if !findings[0].OK {
		return findings
	}
	choice, err := vmtest.ChooseAccelerator(ctx, kernel)
	if err != nil {
		return append(findings, vmDiagnosis{What: "accelerator", Found: err.Error()})
	}
	findings = append(findings, vmDiagnosis{
		What: "accelerator", OK: true, Remedy: choice.Remedy,
		Found: fmt.Sprintf("%s: %s", strings.ToUpper(string(choice.Accelerator)), choice.Why),
	})
	return append(findings, vmDiagnoseStart(cmd, kernel, "cold start", true), vmDiagnoseStart(cmd, kernel, "warm start", false))
}

func vmDiagnoseQEMU() vmDiagnosis {
	d := vmDiagnosis{What: "QEMU"}
	out, err := exec.Command("qemu-system-x86_64", "--version").Output()
	if err != nil {
		d.Found, d.Remedy = "not installed", "apt-get install --no-install-recommends qemu-system-x86"
		return d
	}
	d.OK = true
	d.Found, _, _ = strings.Cut(string(out), "\n")
	return d
}

func vmDiagnoseGo() vmDiagnosis {
	d := vmDiagnosis{What: "Go", OK: true, Found: "compiles the guest's init"}
	if _, err := exec.LookPath("go"); err != nil {
		d.Found, d.Remedy = "not installed: the guest's init cannot be compiled anew", "install Go, or keep the cache of a machine that has it"
	}
	return d
}

func vmDiagnoseCache() vmDiagnosis {
	dir, err := vmtest.CacheDir()
	if err == nil {
		err = os.MkdirAll(dir, 0o755)
	}
	if err != nil {
		return vmDiagnosis{What: "cache", Found: err.Error(), Remedy: "set " + vmtest.CacheEnv + " to a directory that can be written"}
	}
	return vmDiagnosis{What: "cache", OK: true, Found: dir}
}

func vmDiagnoseStart(cmd *cobra.Command, kernel *vmtest.Kernel, what string, cold bool) vmDiagnosis {
	m, err := vmtest.Start(cmd.Context(), kernel, vmtest.Options{Cold: cold, Progress: newVMProgress()})
	if err != nil {
		return vmDiagnosis{What: what, Found: err.Error()}
	}
	defer m.Close()
	return vmDiagnosis{What: what, OK: true, Found: vmStarted(m)}
}
