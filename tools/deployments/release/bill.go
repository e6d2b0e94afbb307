package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"fmt"
	"os"
	"strings"

	"github.com/CycloneDX/cyclonedx-go"
)

// billOfMaterials writes which modules are in a binary, as the binary itself has them.
func (o Options) billOfMaterials(binary, name string) error {
	info, err := buildinfo.ReadFile(binary)
	if err != nil {
		return err
	}
	content, err := os.ReadFile(binary)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(content)
	bill := cyclonedx.NewBOM()
	main := cyclonedx.Component{
		BOMRef: purl(info.Main.Path, o.Version), Type: cyclonedx.ComponentTypeApplication, Name: "carillon", Version: o.Version,
		PackageURL: purl(info.Main.Path, o.Version),
		Hashes:     &[]cyclonedx.Hash{{Algorithm: cyclonedx.HashAlgoSHA256, Value: hex.EncodeToString(sum[:])}},
		Licenses:   &cyclonedx.Licenses{{License: &cyclonedx.License{ID: "Apache-2.0"}}},
		Properties: &[]cyclonedx.Property{{Name: "carillon:revision", Value: o.Revision}},
	}
	bill.Metadata = &cyclonedx.Metadata{Timestamp: o.Time.UTC().Format("2006-01-02T15:04:05Z"), Component: &main}
	components := []cyclonedx.Component{{
		BOMRef: purl("std", strings.TrimPrefix(info.GoVersion, "go")), Type: cyclonedx.ComponentTypeLibrary,
		Name: "std", Version: strings.TrimPrefix(info.GoVersion, "go"), PackageURL: purl("std", strings.TrimPrefix(info.GoVersion, "go")),
	}}
	for _, module := range info.Deps {
		if module.Replace != nil {
			return fmt.Errorf("%s is replaced: a release is made of published modules", module.Path)
		}
		components = append(components, cyclonedx.Component{
			BOMRef: purl(module.Path, module.Version), Type: cyclonedx.ComponentTypeLibrary, Name: module.Path, Version: module.Version,
			PackageURL: purl(module.Path, module.Version), Properties: &[]cyclonedx.Property{{Name: "go:sum", Value: module.Sum}},
		})
	}
	refs := make([]string, len(components))
	for i, component := range components {
		refs[i] = component.BOMRef
	}
	bill.Components = &components
	bill.Dependencies = &[]cyclonedx.Dependency{{Ref: main.BOMRef, Dependencies: &refs}}
	var text bytes.Buffer
	if err := cyclonedx.NewBOMEncoder(&text, cyclonedx.BOMFileFormatJSON).SetPretty(true).Encode(bill); err != nil {
		return err
	}
	return o.write(name+".cdx.json", text.Bytes())
}

// purl is a module's package URL (github.com/package-url/purl-spec, golang).
func purl(module, version string) string { return "pkg:golang/" + module + "@" + version }
