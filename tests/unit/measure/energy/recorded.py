"""Recordings of every format, written after its documentation and public examples: no such device was at hand."""

from __future__ import annotations

import plistlib

PMIC = """\
 3V7_WL_SW_A current(0)=0.12199130A
   3V3_SYS_A current(1)=0.15224510A
   1V8_SYS_A current(2)=0.17273960A
  DDR_VDD2_A current(3)=0.11613570A
  DDR_VDDQ_A current(4)=0.02941200A
   1V1_SYS_A current(5)=0.21763240A
    0V8_SW_A current(6)=0.50748360A
  VDD_CORE_A current(7)=1.50000000A
   3V3_DAC_A current(17)=0.00000000A
   3V3_ADC_A current(18)=0.00018315A
   0V8_AON_A current(16)=0.00390720A
      HDMI_A current(22)=0.01709400A
 3V7_WL_SW_V volt(8)=3.60605200V
   3V3_SYS_V volt(9)=3.31931300V
   1V8_SYS_V volt(10)=1.79682400V
  DDR_VDD2_V volt(11)=1.10842400V
  DDR_VDDQ_V volt(12)=0.60549390V
   1V1_SYS_V volt(13)=1.10219700V
    0V8_SW_V volt(14)=0.80146440V
  VDD_CORE_V volt(15)=0.88000000V
   3V3_DAC_V volt(20)=3.31501500V
   3V3_ADC_V volt(21)=3.31684600V
   0V8_AON_V volt(19)=0.79882700V
      HDMI_V volt(23)=4.90440000V
     EXT5V_V volt(24)=4.87894000V
      BATT_V volt(25)=2.50512600V
"""

FNIRSI_LOGGER = """\

timestamp sample_in_packet voltage_V current_A dp_V dn_V temp_C_ema energy_Ws capacity_As
1657568326.775 0 5.00000 0.40000 1.184 1.031 30.500 0.000000 0.000001
1657568326.785 1 5.00000 0.40000 1.184 1.033 30.500 0.000000 0.000001
1657568326.795 2 5.00000 0.50000 1.184 1.030 30.500 0.000000 0.000002
1657568326.805 3 5.00000 0.50000 1.184 1.031 30.500 0.000000 0.000002
1657568326.784 0 5.00000 0.40000 1.185 1.032 30.500 0.000000 0.000003

timestamp sample_in_packet voltage_V current_A dp_V dn_V temp_C_ema energy_Ws capacity_As
1657568330.000 0 5.00000 0.60000 1.184 1.029 30.500 0.000000 0.000000
1657568330.010 1 5.00000 0.6"""
"""fnirsi-usb-power-data-logger: two runs appended, packets that overlap, a last line cut off."""

RD_USB = """\
Time,Voltage (V),Current (A),Power (W),Temperature (°C),Data+ (V),Data- (V),Resistance (Ω),Accumulated current (mAh),Run time,\
Run time (seconds),Unix time
2026-03-01 12:00:00,5.080,0.5000,2.540,24,0.01,0.02,10.2,1,00:00:00,0,1772366400.25
2026-03-01 12:00:00,5.080,0.6000,3.048,24,0.01,0.02,10.2,1,00:00:00,0,1772366400.75
2026-03-01 12:00:01,5.070,,,24,0.01,0.02,10.2,1,00:00:01,1,1772366401.25
2026-03-01 12:00:01,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:01,1,1772366401.75
2026-03-01 12:00:02,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:02,2,1772366402.25
2026-03-01 12:00:02,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:02,2,1772366402.75
2026-03-01 12:00:03,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:03,3,1772366403.25
2026-03-01 12:00:03,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:03,3,1772366403.75
2026-03-01 12:00:04,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:04,4,1772366404.25
2026-03-01 12:00:04,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:04,4,1772366404.75
2026-03-01 12:00:05,5.070,1.0000,5.070,24,0.01,0.02,10.2,1,00:00:05,5,1772366405.25
"""
"""rd-usb with a UM25C; one sample without a current."""

METER_TABLE = """\
SUM,4
TotalTime,="00:00:00.300"
SampTime(ms),100
DateTime,2026-03-01 12:00:00

Time(D.hh:mm:ss.ms),Voltage(V),Current(A),Power(W),
="00:00:00.000",5.1000,0.5000,2.5500,
="00:00:00.100",5.1000,0.5000,2.5500,
="00:00:00.200",5.0000,1.0000,5.0000,
="00:01:00.300",5.0000,1.0000,5.0000,
"""

DECIMAL_COMMA = "\ufeffTime[ms];Voltage[mV];Current[mA]\r\n0;5000,0;500,5\r\n100;5000,0;600,0\r\n200;5000,0;600,0\r\n"


def powermetrics(processor: dict[str, float], elapsed_ns: int = 200_000_000) -> bytes:
    """One document of the stream, as `powermetrics -f plist` writes it (the keys that are read, and some that are not)."""
    content = {
        "is_delta": True,
        "elapsed_ns": elapsed_ns,
        "hw_model": "Mac14,2",
        "processor": {"clusters": [{"name": "E-Cluster", "freq_hz": 1.1e9, "power": 100.0}]} | processor,
        "thermal_pressure": "Nominal",
    }
    return plistlib.dumps(content)
